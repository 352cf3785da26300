"""The verbs as functions: what `import runner` offers, and what CLI and monitor call.

Every function that touches runs takes `home`, the folder that holds `jobs/`; unset, it is found from the job or the
working directory. Errors are `JobError` (the job), `StoreError` (the run or the database), `EnvironmentUnfit` (this
machine).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from runner.backends import load_backend
from runner.grpo.checkpoint import Checkpoint, find
from runner.grpo.inputs import as_trained
from runner.journal.events import Difference, Split
from runner.journal.folder import read_json
from runner.journal.states import Reason, State
from runner.queue import local, publish
from runner.queue.fork import refuse_other_shape
from runner.queue.home import Home, find_home
from runner.queue.jobs import BackendName, Checked, JobLike, validate
from runner.queue.progress import Progress, progress
from runner.queue.submit import Device
from runner.queue.submit import submit as _submit
from runner.spec.errors import JobError
from runner.spec.model import JobSpec
from runner.store import queries
from runner.store.errors import StoreError
from runner.store.rows import CompletionRow, EventRow, RewardLogRow, RunRow
from runner.store.store import Store

ALL = -1
"""Where SQLite is asked for every row."""


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

    @property
    def state(self) -> State:
        """Where the run stands now."""
        return self.row.state

    @property
    def reason(self) -> Reason | None:
        """Why it stands there; None while it runs."""
        return self.row.reason

    @property
    def detail(self) -> str:
        """The reason in one line for people: what it waits for, or how it ended."""
        return self.row.detail

    def follow(self) -> Iterator[Progress]:
        """Every step and evaluation in their order, from the first one on and then as they come. Ends when the run has
        ended; leaving the loop leaves the run alone."""
        yield from progress(self.events(), self.row.total_steps)

    def events(self, after: int = 0) -> Iterator[EventRow | None]:
        """Events as they come, from the event id `after` on; None while nothing is new. Ends when the run has."""
        with self.home.open() as store:
            yield from local.follow(self.home, store, self.id, after, self._rest)
        self._let_go()

    def _rest(self, seconds: float) -> None:
        self._started.rest(seconds) if self._started else time.sleep(seconds)

    def goes_on(self) -> str:
        """Starts the run again where it has just been held for a cause that a new process may get over and its own
        `retry:` says so; gives why, or nothing. For what was killed only `runner watch` does so, and faults of the
        emulator are there to be seen."""
        with self.reading() as store:
            why = local.resume_by_rule(self.home, store, self.id)
        if why:
            self.start()
        return why

    def wait(self) -> RunHandle:
        """Blocks until the run has ended. Ctrl-C stops it with a checkpoint; a second one ends it at once."""
        while True:
            try:
                for _ in self.events():
                    pass
                if not self.goes_on():
                    return self
            except KeyboardInterrupt:
                self.stop()

    def stop(self) -> None:
        """Asks for a checkpoint and an end as `held(stopped)`; a second call ends it at once."""
        if self._started is not None:
            self._started.stop()
            return
        if attempts := self.home.run(self.id).attempts():
            local.stop(self.home.run(self.id), attempts[-1])

    def cancel(self) -> None:
        """Ends the run for good, after a checkpoint if it is running. Raises StoreError when it has ended."""
        with self.home.open() as store:
            local.cancel(self.home, store, self.id)

    def resume(self, *, wait: bool = True, detach: bool = False) -> RunHandle:
        """Goes on with the held run from its last checkpoint, or starts it if it is queued. Raises StoreError."""
        with self.reading() as store:
            if store.run(self.id).state is not State.QUEUED:
                local.resume(self.home, store, self.id)
        return _start(self, wait, detach)

    def update_reward(self, name: str, function: Callable[..., Any], *, weight: float | None = None) -> str:
        """Puts another function live under a reward's name, or adds a reward, without touching the job's files. Gives
        the version's sha256; `follow` tells when it is live, or why not. The next edit of the files replaces it.
        Raises CaptureError for a function that can't be written out, StoreError when the run has ended."""
        with self.home.open() as store:
            return publish.update_function(self.home, store, self.id, name, function, weight)

    def metrics(self, name: str) -> list[tuple[int, float]]:
        """A metric's (step, value) pairs, as `rewards/format/mean`."""
        with self.reading() as store:
            series = queries.metrics(store, self.id, [name])
        return [(step, value) for step, value in series.get(name, []) if value is not None]

    def completions(
        self,
        *,
        step: int | None = None,
        split: Split | None = None,
        example_id: int | None = None,
        prompt: str | None = None,
        failed: bool = False,
        order: queries.Order = "step",
        limit: int | None = None,
    ) -> list[CompletionRow]:
        """Rollouts with prompt, scores, reward and advantage. `prompt`: a text that the prompt contains; `failed`: only
        those that a reward failed on; `order`: by step, or the `best` or the `worst` first."""
        with self.reading() as store:
            return queries.completions(
                store,
                self.id,
                step=step,
                split=split,
                example_id=example_id,
                prompt=prompt,
                failed=failed,
                order=order,
                limit=ALL if limit is None else limit,
            )

    def errors(self, limit: int = 200) -> list[RewardLogRow]:
        """The first reward calls that failed: which function, at which step, the error with its lines."""
        with self.reading() as store:
            return list(islice(_failed_calls(store, self.id), limit))

    def to_pandas(self) -> Any:
        """Every rollout as a pandas DataFrame, a column for each reward. Raises ImportError without pandas."""
        import pandas  # pyright: ignore[reportMissingTypeStubs]

        rows = [flat(row) for row in self.completions()]
        return pandas.DataFrame(rows)

    def start(self, *, attached: bool = True, spawn: local.Spawn | None = None) -> str:
        """Starts the queued run on this machine; gives what it waits for, in words, or nothing when it has started."""
        with self.home.open() as store:
            started = local.start(self.home, store, self.id, attached=attached, spawn=spawn)
        if isinstance(started, str):
            return started
        self._started = started
        if attached:
            publish.publish_edits(self.home.run(self.id), started.supervisor)
        return ""

    @property
    def supervisor(self) -> local.Supervisor | None:
        """The process that looks after the run, where this process has started it."""
        return self._started.supervisor if self._started else None

    def _let_go(self) -> None:
        """Drops what held the ended run to this process."""
        started, self._started = self._started, None
        if started is not None and started.pipe is not None:
            started.supervisor.wait()
            os.close(started.pipe)


def _failed_calls(store: Store, run_id: str) -> Iterator[RewardLogRow]:
    after = (0, "")
    while page := queries.reward_logs(store, run_id, after=after):
        yield from (row for row in page if row.error is not None)
        after = (page[-1].rollout_id, page[-1].name)


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
    job: JobLike | Checked,
    *,
    backend: BackendName = "trl",
    device: Device = "gpu",
    overrides: Sequence[str] = (),
    home: str | Path | None = None,
) -> RunHandle:
    """Checks a job and puts it in the queue, where `runner watch` or `resume` finds it. One that `validate` has checked
    is taken as it was then, for the backend that it was checked for, without `overrides`. Raises JobError."""
    if isinstance(job, Checked) and overrides:
        raise TypeError("a checked job can't be overridden any more; validate it with the overrides")
    checked = job if isinstance(job, Checked) else validate(job, overrides, backend)
    where = Home(Path(home).resolve()) if home else find_home(checked.loaded.folder)
    _refuse_job(checked, where)
    with where.open() as store:
        return RunHandle(where, _submit(store, checked, device))


def _refuse_job(checked: Checked, home: Home) -> None:
    """Raises JobError for what the backend can't do with this job on any machine."""
    data = checked.data
    findings = load_backend(checked.backend).check(_as_trained(checked, home), data.train, data.eval)
    wrong = [finding for finding in findings if finding.code != "environment"]
    if wrong:
        raise JobError(checked.loaded.locate(wrong))


def _as_trained(checked: Checked, home: Home) -> JobSpec:
    try:
        return as_trained(checked.job, checked.loaded.folder, home.state / "runs")
    except JobError as error:
        raise JobError(checked.loaded.locate(error.findings)) from None


def differences(checked: Checked, home: Home | None = None) -> list[Difference]:
    """What the job asks for and its backend does not honour."""
    job, data = _as_trained(checked, home or find_home(checked.loaded.folder)), checked.data
    held_out = data.eval[: job.evaluation.limit]
    return [*checked.differences, *load_backend(checked.backend).differences(job, data.train, held_out)]


def run(
    job: JobLike,
    *,
    device: Device = "gpu",
    overrides: Sequence[str] = (),
    home: str | Path | None = None,
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
    home: str | Path | None = None,
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
    if waiting and handle.state is State.QUEUED:  # else a watch of this home was faster
        raise EnvironmentUnfit(f"{handle.id} is queued, not started: {waiting}. `runner resume {handle.id}` starts it.")
    if wait and not detach:
        handle.wait()
    return handle


def update_reward(
    run: str, name: str, function: Callable[..., Any], *, weight: float | None = None, home: str | Path | None = None
) -> str:
    """As `RunHandle.update_reward`: another function under a reward's name, live while the run trains."""
    return open_run(run, home=home).update_reward(name, function, weight=weight)


def resume(run: str, *, home: str | Path | None = None, wait: bool = True, detach: bool = False) -> RunHandle:
    """Goes on with a held run from its last checkpoint, or starts one that is queued. Raises StoreError."""
    return open_run(run, home=home).resume(wait=wait, detach=detach)


def rerun(
    run: str,
    *,
    at: int | None = None,
    overrides: Sequence[str] = (),
    home: str | Path | None = None,
    wait: bool = True,
    detach: bool = False,
) -> RunHandle:
    """A new run of an ended run's job, with the job's files as they are now: from scratch, or (`at`) going on from that
    run's checkpoint of step `at`. Raises StoreError, JobError."""
    old = open_run(run, home=home)
    row = old.row
    fork = None if at is None else checkpoint_of(old, at).path
    checked = validate(_job_file(old), overrides, "emulator" if row.emulated else "trl")
    _refuse_job(checked, old.home)
    spec = read_json(old.home.run(old.id).spec_json) or {}
    device: Device = spec["device"]
    if fork is not None:
        refuse_other_shape(old.id, spec["job"], checked.job, row.emulated)
    with old.home.open() as store:
        new = RunHandle(old.home, _submit(store, checked, device, fork, f"{old.id}@{at}" if fork else old.id))
    return _start(new, wait, detach)


def _job_file(run: RunHandle) -> Path:
    return Path((read_json(run.home.run(run.id).spec_json) or {})["job_file"])


def checkpoint_of(run: RunHandle, step: int | Literal["best"] | None = None) -> Checkpoint:
    """The run's complete checkpoint of that step, its best (`checkpoints.best`), or its last one. Raises StoreError."""
    folder = run.home.run(run.id).checkpoints
    kept = {item.step: item for item in find(folder)}
    chosen = run.home.run(run.id).best if step == "best" else max(kept, default=None) if step is None else step
    if chosen not in kept:
        which = "" if step is None else " marked best (`checkpoints.best`)" if step == "best" else f" of step {step}"
        raise StoreError(f"{run.id} has no checkpoint{which}; kept: {', '.join(map(str, kept)) or 'none'}")
    return kept[chosen]


def open_run(run: str, *, home: str | Path | None = None) -> RunHandle:
    """The run of that id, unambiguous start of an id, or job name (its latest run). Raises StoreError."""
    where = Home(Path(home).resolve()) if home else find_home()
    with where.open() as store:
        return RunHandle(where, queries.find_run(store, run).id)


def runs(*, job: str | None = None, state: str | None = None, home: str | Path | None = None) -> list[RunRow]:
    """Runs, latest first, each with what its processes have recorded taken in."""
    where = Home(Path(home).resolve()) if home else find_home()
    with where.open() as store:
        for row in queries.runs(store, states=[State.STARTING, State.RUNNING]):
            local.conclude(where, store, row.id)
        return queries.runs(store, job=job, states=[State(state)] if state else [])


def cancel(run: str, *, home: str | Path | None = None) -> None:
    """Ends a run for good. Raises StoreError when it has ended already."""
    open_run(run, home=home).cancel()
