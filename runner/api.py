"""The verbs as functions: what `import runner` offers, and what CLI and monitor call.

Every function that touches runs takes `home`, the folder that holds `jobs/`; unset, it is found from the job or the
working directory. Errors are `JobError` (the job), `StoreError` (the run or the database), `EnvironmentUnfit` (this
machine).
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner.journal.folder import read_json
from runner.journal.states import State
from runner.queue import local
from runner.queue.home import Home, find_home
from runner.queue.jobs import BackendName, JobLike, find_job, load_job, validate
from runner.queue.submit import Device
from runner.queue.submit import submit as _submit
from runner.store import queries
from runner.store.errors import StoreError
from runner.store.rows import CompletionRow, EventRow, RunRow
from runner.store.store import Store


class EnvironmentUnfit(Exception):
    """This machine can't do what was asked; the message says what would help."""


class RunHandle:
    """One run: how it stands, what it recorded, and what can be done with it."""

    def __init__(self, home: Home, run_id: str, started: local.Started | None = None) -> None:
        self.home = home
        self.id = run_id
        self._started = started

    def __repr__(self) -> str:
        return f"<run {self.id}: {self.row.state}>"

    @contextmanager
    def reading(self) -> Generator[Store]:
        """The home's database, with everything the run's processes have recorded taken in."""
        with self.home.open() as store:
            local.conclude(self.home, store, self.id)
            yield store

    @property
    def row(self) -> RunRow:
        """How the run stands now."""
        with self.reading() as store:
            return store.run(self.id)

    @property
    def folder(self) -> Path:
        """What the run left: journal, checkpoints, reward versions, the job as submitted."""
        return self.home.run(self.id).path

    def follow(self, after: int = 0) -> Iterator[EventRow | None]:
        """Events as they come, from the event id `after` on; None while nothing is new. Ends when the run has."""
        with self.home.open() as store:
            yield from local.follow(self.home, store, self.id, after)

    def wait(self) -> RunRow:
        """Blocks until the run has ended. Ctrl-C stops it with a checkpoint; a second one ends it at once."""
        following = self.follow()
        while True:
            try:
                for _ in following:
                    pass
                return self.row
            except KeyboardInterrupt:
                self.stop()
                following = self.follow()

    def stop(self) -> None:
        """Asks for a checkpoint and an end as `held(stopped)`; a second call ends it at once."""
        if self._started is not None:
            self._started.stop()
            return
        with self.home.open() as store:
            attempts = store.attempts(self.id)
        if attempts:
            local.stop(self.home.run(self.id), attempts[-1].n)

    def cancel(self) -> None:
        """Ends the run for good, after a checkpoint if it is running. Raises StoreError when it has ended."""
        with self.home.open() as store:
            local.cancel(self.home, store, self.id)

    def metrics(self, name: str) -> list[tuple[int, float]]:
        """A metric's (step, value) pairs, as `rewards/format/mean`."""
        with self.reading() as store:
            series = queries.metrics(store, self.id, [name])
        return [(step, value) for step, value in series.get(name, []) if value is not None]

    def completions(self, **filters: Any) -> list[CompletionRow]:
        """Rollouts with prompt, scores, reward and advantage. Filters as `runner completions`: step, split, limit…"""
        with self.reading() as store:
            return queries.completions(store, self.id, **filters)

    def to_pandas(self) -> Any:
        """Every rollout as a pandas DataFrame, a column for each reward. Raises ImportError without pandas."""
        import pandas

        rows = [flat(row) for row in self.completions(limit=None)]
        return pandas.DataFrame(rows)

    def start(self, *, attached: bool = True) -> str:
        """Starts the queued run on this machine; gives what it waits for, in words, or nothing when it has started."""
        with self.home.open() as store:
            started = local.start(self.home, store, self.id, attached=attached)
        if isinstance(started, str):
            return started
        self._started = started
        return ""


def flat(row: CompletionRow) -> dict[str, Any]:
    """A completion as one flat mapping: `rewards/<name>` for each score, then TRL's columns."""
    scores = {f"rewards/{name}": score.value for name, score in row.scores.items()}
    errors = {name: score.outcome for name, score in row.scores.items() if score.outcome not in ("ok", "none")}
    plain = {
        name: getattr(row, name)
        for name in ("run_id", "split", "step", "group_id", "idx", "example_id", "prompt", "completion")
    }
    last = {name: getattr(row, name) for name in ("n_tokens", "finish_reason", "reward", "advantage", "reward_version")}
    return {**plain, **scores, **last, "errors": errors or None}


def submit(
    job: JobLike,
    *,
    backend: BackendName = "trl",
    device: Device = "gpu",
    overrides: Sequence[str] = (),
    home: Path | None = None,
) -> RunHandle:
    """Checks a job and puts it in the queue, where `runner watch` or `resume` finds it. Raises JobError."""
    checked = validate(job, overrides, backend)
    where = Home(home.resolve()) if home else find_home(checked.loaded.folder)
    with where.open() as store:
        return RunHandle(where, _submit(store, checked, device))


def run(
    job: JobLike,
    *,
    device: Device = "gpu",
    overrides: Sequence[str] = (),
    home: Path | None = None,
    wait: bool = True,
    detach: bool = False,
) -> RunHandle:
    """Trains with TRL. `device="cpu"` insists on doing it without a GPU, slowly. See `emulate` for the rest."""
    require_device(device)
    return _start(submit(job, backend="trl", device=device, overrides=overrides, home=home), wait, detach)


def emulate(
    job: JobLike,
    *,
    overrides: Sequence[str] = (),
    home: Path | None = None,
    wait: bool = True,
    detach: bool = False,
) -> RunHandle:
    """Trains in miniature on the CPU. Returns when the run has ended, or at once with `wait=False` (then `follow` or
    `wait` on the handle). The run stops with this process unless it is detached. Raises JobError."""
    return _start(submit(job, backend="emulator", overrides=overrides, home=home), wait, detach)


def require_device(device: Device) -> None:
    """Raises EnvironmentUnfit when there is no GPU and the CPU was not insisted on."""
    if device == "gpu" and shutil.which("nvidia-smi") is None:
        raise EnvironmentUnfit(
            "no GPU here. `runner emulate` trains in miniature on the CPU; "
            "`--device cpu` insists on the real model on the CPU."
        )


def _start(handle: RunHandle, wait: bool, detach: bool) -> RunHandle:
    waiting = handle.start(attached=not detach)
    if waiting:
        raise EnvironmentUnfit(f"{handle.id} is queued, not started: {waiting}. `runner resume {handle.id}` starts it.")
    if wait and not detach:
        handle.wait()
    return handle


def resume(run: str, *, home: Path | None = None, wait: bool = True, detach: bool = False) -> RunHandle:
    """Goes on with a held run from its last checkpoint, or starts one that is queued. Raises StoreError."""
    handle = open_run(run, home=home)
    with handle.home.open() as store:
        local.conclude(handle.home, store, handle.id)
        if store.run(handle.id).state != "queued":
            local.resume(handle.home, store, handle.id)
    return _start(handle, wait, detach)


def rerun(
    run: str,
    *,
    at: int | None = None,
    overrides: Sequence[str] = (),
    home: Path | None = None,
    wait: bool = True,
    detach: bool = False,
) -> RunHandle:
    """A new run of an ended run's job, with the job's files as they are now: from scratch, or (`at`) going on from that
    run's checkpoint of step `at`. Raises StoreError, JobError."""
    old = open_run(run, home=home)
    row = old.row
    fork = None if at is None else _checkpoint(old, at)
    checked = validate(_job_file(old), overrides, "emulator" if row.emulated else "trl")
    device: Device = (read_json(old.home.run(old.id).spec_json) or {})["device"]
    with old.home.open() as store:
        new = RunHandle(old.home, _submit(store, checked, device, fork, f"{old.id}@{at}" if fork else old.id))
    return _start(new, wait, detach)


def _job_file(run: RunHandle) -> Path:
    return Path((read_json(run.home.run(run.id).spec_json) or {})["job_file"])


def _checkpoint(run: RunHandle, step: int) -> Path:
    folders = {int(path.name.removeprefix("step-")): path for path in run.home.run(run.id).checkpoints.glob("step-*")}
    if step not in folders:
        kept = ", ".join(map(str, sorted(folders))) or "none"
        raise StoreError(f"{run.id} has no checkpoint of step {step}; kept: {kept}")
    return folders[step]


def open_run(run: str, *, home: Path | None = None) -> RunHandle:
    """The run of that id, unambiguous start of an id, or job name (its latest run). Raises StoreError."""
    where = Home(home.resolve()) if home else find_home()
    with where.open() as store:
        return RunHandle(where, queries.find_run(store, run).id)


def runs(*, job: str | None = None, state: str | None = None, home: Path | None = None) -> list[RunRow]:
    """Runs, latest first, each with what its processes have recorded taken in."""
    where = Home(home.resolve()) if home else find_home()
    with where.open() as store:
        for row in queries.runs(store, states=[State.STARTING, State.RUNNING]):
            local.conclude(where, store, row.id)
        return queries.runs(store, job=job, states=[State(state)] if state else [])


def cancel(run: str, *, home: Path | None = None) -> None:
    """Ends a run for good. Raises StoreError when it has ended already."""
    open_run(run, home=home).cancel()
