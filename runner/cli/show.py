"""`runner show`: everything of one run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import typer

from runner.cli import report
from runner.cli.boundary import INVALID
from runner.cli.ls import plain as plain_run
from runner.cli.ls import wrong_files
from runner.cli.options import HomeOption, JsonOption, RunArgument
from runner.cli.out import Line, say, say_json
from runner.cli.text import ago, clean_line, duration, size, table
from runner.queue.home import Home
from runner.spec.errors import Finding, render
from runner.spec.model import JobSpec, dump
from runner.spec.resolve import differences
from runner.store import queries
from runner.store.errors import UnknownRun
from runner.store.rows import AttemptRow, CheckpointRow, JobRow, RewardVersionRow, RunRow

if TYPE_CHECKING:
    from runner.queue.publish import Drift


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    facts: report.Facts
    attempts: list[AttemptRow]
    checkpoints: list[CheckpointRow]
    versions: list[RewardVersionRow]
    drift: Drift | None
    """What the job's files say by now, where that is not what the run used last."""

    @property
    def run(self) -> RunRow:
        return self.facts.run


def show(run: RunArgument, home: HomeOption = None, json: JsonOption = False) -> None:
    """Shows everything of one run. Its settings, attempts, checkpoints and reward versions, and what it came to."""
    from runner import api
    from runner.queue.publish import drift, live_version

    wrong = {row.name: row for row in wrong_files(home)}
    try:
        handle = api.open_run(run, home=home)
    except UnknownRun:
        if run not in wrong:
            raise
        _show_file(wrong[run], json)
        raise typer.Exit(INVALID) from None
    row = handle.row
    with handle.reading() as store:
        versions = queries.reward_versions(store, row.id)
        live = live_version(versions)
        whole = Whole(
            facts=report.read(store, row),
            attempts=store.attempts(row.id),
            checkpoints=queries.checkpoints(store, row.id),
            versions=versions,
            drift=drift(handle.home.run(row.id), live) if live else None,
        )
    file = wrong.get(row.job)
    if json:
        say_json(_plain(whole) | {"job_file": asdict(file) if file else None})
        return
    if file:
        _show_file(file, json)
        say()
    for line in _record(whole, handle.home):
        say(*line)
    say()
    report.show(whole.facts, handle.home)


def _show_file(file: JobRow, json: bool) -> None:
    """A job file that `runner watch` can't run as it is now; a run that it had goes on as it was."""
    if json:
        say_json({"job_file": asdict(file)})
        return
    say(
        (file.state, "bold red"),
        clean_line(f"  {file.path}, as `runner watch` saw it {ago(time.time() - file.seen_at)}"),
    )
    for line in render(Finding(**error) for error in file.errors).splitlines():
        say(f"  {clean_line(line)}")


def _record(whole: Whole, home: Home) -> Iterator[Line]:
    run = whole.run
    parent = f", goes on from {run.parent}" if run.parent else ""
    yield [("run", "bold"), f"  {run.id}{parent}: job {run.job}, revision {run.revision[:12]}, on {run.backend}"]
    yield [f"  folder {report.shown_path(home.run(run.id).path)}"]
    for title, lines in (
        ("settings that differ from the defaults", settings(run.spec)),
        ("what the emulator does differently", _differences(whole)),
        ("attempts", _attempts(whole)),
        ("checkpoints", _checkpoints(whole)),
        ("reward versions", _versions(whole)),
    ):
        if lines:
            yield []
            yield [(title, "bold")]
            yield from ([f"  {line}"] for line in lines)


def settings(spec: str) -> list[str]:
    """Fields of a resolved job that are not at their default, as `grpo.steps: 60`. Rewards are told elsewhere."""
    job = JobSpec.model_validate_json(spec)
    least = {name: value for name, value in dump(job).items() if name in ("name", "model", "dataset", "rewards")}
    plainest = JobSpec.model_validate({**least, "dataset": {"path": job.dataset.path}})
    found = differences(plainest, job)
    rows = [("model", job.model), ("dataset.path", job.dataset.path)]
    sections = {path.rpartition(".")[0] for path in found}  # one that was empty is told by what is in it now
    told = [path for path in found if not path.startswith("rewards.") and path not in sections]
    rows += [(path, str(found[path][1])) for path in told]
    return table([(name, clean_line(value)) for name, value in rows])


def _differences(whole: Whole) -> list[str]:
    return [
        clean_line(f"{item['field']}: {item['asked']} asked for, {item['kind']}: {item['detail']}")
        for item in whole.facts.differences
    ]


def _attempts(whole: Whole) -> list[str]:
    rows: list[tuple[str, ...]] = []
    for attempt in whole.attempts:
        start = "from the model" if attempt.resumed_step is None else f"from step {attempt.resumed_step}"
        took = ""
        if attempt.started_at and attempt.ended_at:
            took = duration(max(attempt.ended_at - attempt.started_at, 0))
        rows.append((str(attempt.n), start, attempt.outcome or "running", took, clean_line(attempt.host or "")))
    return table(rows, right=(0,))


def _checkpoints(whole: Whole) -> list[str]:
    kept = [item for item in whole.checkpoints if item.kept]
    return table([(f"step {item.step}", size(item.bytes), item.path) for item in kept], right=(1,))


def _versions(whole: Whole) -> list[str]:
    rows = [
        (
            str(item.version),
            item.sha256[:12],
            str(item.state),
            "" if item.first_step is None else f"from step {item.first_step}",
            clean_line((item.error or "").partition("\n")[0]),
        )
        for item in whole.versions
    ]
    return [*table(rows, right=(0,)), *_drift(whole)]


def _drift(whole: Whole) -> Iterator[str]:
    """Files that were edited after the run, or during it with `reload: off`."""
    if whole.drift is None:
        return
    if whole.drift.sha256 is None:
        yield clean_line(f"the job's files make no version now: {whole.drift.error}")
    else:
        act = f"; `runner rerun {whole.run.id}` takes them" if whole.run.state.is_final else ""
        yield f"the job's files make another version now ({whole.drift.sha256[:12]}){act}"


def _plain(whole: Whole) -> dict[str, Any]:
    import json

    import msgspec

    rows: dict[str, Any] = {
        "attempts": msgspec.to_builtins(whole.attempts),
        "checkpoints": msgspec.to_builtins(whole.checkpoints),
        "reward_versions": msgspec.to_builtins(whole.versions),
        "drift": whole.drift and {"sha256": whole.drift.sha256, "error": whole.drift.error},
    }
    series = {name: {"first": s[0][1], "last": s[-1][1]} for name, s in whole.facts.metrics.items() if s}
    return {**plain_run(whole.run), **report.plain(whole.facts), "spec": json.loads(whole.run.spec), **rows} | {
        "metrics": series
    }
