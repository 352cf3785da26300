"""Routes about runs as wholes: how they stand, what they are made of, their metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import Query, Request

from runner.journal.events import Split
from runner.journal.states import State
from runner.journal.words import WORDS
from runner.monitor import models
from runner.monitor.advice import next_action
from runner.monitor.reading import BIG, Limit, OfRun, Reading, api_router, settings_of
from runner.queue.in_force import rewards_in_force
from runner.spec.resolve import differing
from runner.store import charts, queries
from runner.store.rows import RunRow
from runner.store.store import Store

router = api_router()

SPLITS: tuple[Split, ...] = ("train", "eval")
ENDS = 0.1
"""Share of the steps that a comparison looks at."""


def plain(store: Store, rows: Sequence[RunRow]) -> list[models.Run]:
    """The runs as the API gives them."""
    sparks = charts.sparklines(store, rows)
    return [models.Run.model_validate({**_fields(row), "reward": sparks[row.id]}) for row in rows]


def _fields(row: RunRow) -> dict[str, Any]:
    words = WORDS[row.reason] if row.reason else None
    return {**asdict(row), "reason_words": words, "next_action": next_action(row)}


@router.get("/home")
def home(request: Request) -> models.HomeInfo:
    """What this monitor shows, and what it lets one do."""
    settings = settings_of(request)
    return models.HomeInfo(
        home=str(settings.home),
        emulate=settings.emulate,
        version=version("grpo-runner"),
        token=settings.token is not None,
        rights=list(settings.rights),
        problems=[f"{run}: {why}" for run, why in request.app.state.live.problems.items()],
    )


@router.get("/jobs")
def jobs(store: Reading) -> models.JobList:
    """Job files as the last scan of the folder saw them, and jobs known by their runs only."""
    latest = {run.job: run for run in plain(store, queries.latest_runs(store))}
    scanned = queries.jobs(store)
    found = [models.Job(**asdict(job), latest_run=latest.pop(job.name, None)) for job in scanned]
    found += [_unscanned(run) for run in latest.values()]
    return models.JobList(jobs=sorted(found, key=lambda job: job.name))


def _unscanned(run: models.Run) -> models.Job:
    return models.Job(
        name=run.job, path="", revision=run.revision, state=run.state, errors=[], seen_at=None, latest_run=run
    )


@router.get("/runs")
def runs(
    store: Reading,
    job: str | None = None,
    state: State | None = None,
    before: Annotated[int | None, Query(ge=0, lt=BIG)] = None,
    limit: Limit = 50,
) -> models.RunList:
    """Runs, latest first."""
    rows = queries.runs(store, job=job, states=[state] if state else [], before=before, limit=limit + 1)
    shown = rows[:limit]
    return models.RunList(runs=plain(store, shown), next=shown[-1].number if len(rows) > limit else None)


@router.get("/runs/{run_id}")
def run(store: Reading, row: OfRun) -> models.RunDetail:
    """Everything of one run but its records."""
    spec: dict[str, Any] = json.loads(row.spec)
    found = queries.events(store, row.id, types=["differences_found"])
    return models.RunDetail.model_validate(
        {
            **_fields(row),
            "reward": charts.sparklines(store, [row])[row.id],
            "spec": spec,
            "differences": [item for event in found[-1:] if event.data for item in event.data["items"]],
            "rewards": [asdict(reward) for reward in rewards_in_force(store, row)],
            "attempts": store.attempts(row.id),
            "checkpoints": queries.checkpoints(store, row.id),
            "versions": queries.reward_versions(store, row.id),
            "alerts": _alerts(store, row),
            "metric_names": charts.names(store, row.id),
            "splits": [split for split in SPLITS if queries.has_rollouts(store, row.id, split)],
        }
    )


def _alerts(store: Store, row: RunRow) -> list[dict[str, Any]]:
    found = [event for event in queries.events(store, row.id, types=["alert"]) if not event.void]
    return [{**(event.data or {}), "id": event.id, "step": event.step, "at": event.at} for event in found]


@router.get("/runs/{run_id}/metrics")
def metrics(
    store: Reading,
    row: OfRun,
    names: str = "",
    first: Annotated[int, Query(alias="from", ge=0, lt=BIG)] = 0,
    last: Annotated[int | None, Query(alias="to", ge=0, lt=BIG)] = None,
    size: Annotated[int | None, Query(ge=1, lt=BIG)] = None,
    points: Annotated[int, Query(ge=2, le=4000)] = 600,
) -> models.MetricTable:
    """Metrics in buckets of steps. `names`: separated by commas; all when empty. For what came since an answer, ask
    with its `size`, `from` the beginning of its last whole bucket."""
    wanted = [name for name in names.split(",") if name]
    found = charts.series(store, row, wanted, first=first, last=last, size=size, points=points)
    return models.MetricTable(
        size=size or charts.width(first, row.last_step if last is None else last, points),
        series={name: models.MetricSeries.model_validate(one) for name, one in found.items()},
    )


@router.get("/runs/{run_id}/markers")
def markers(store: Reading, row: OfRun) -> list[models.Marker]:
    """What the charts of a run mark, in the order of steps."""
    return sorted(_markers(store, row), key=lambda marker: marker.step)


def _markers(store: Store, row: RunRow) -> Iterator[models.Marker]:
    for one in queries.reward_versions(store, row.id):
        if one.first_step is not None:
            yield models.Marker(step=one.first_step, kind="version", text=f"reward version {one.version}")
    for point in queries.checkpoints(store, row.id):
        yield models.Marker(
            step=point.step, kind="checkpoint", text="checkpoint" if point.kept else "checkpoint, removed"
        )
    for attempt in store.attempts(row.id)[1:]:
        if attempt.resumed_step is not None:
            yield models.Marker(
                step=attempt.resumed_step, kind="restart", text=f"attempt {attempt.n} goes on from here"
            )
    for alert in _alerts(store, row):
        yield models.Marker(step=alert["step"] or 0, kind="alert", text=alert["message"])
    for step in charts.steps(store, row.id, "eval/reward"):
        yield models.Marker(step=step, kind="evaluation", text="evaluation")


@router.get("/compare")
def compare(store: Reading, runs: Annotated[str, Query(pattern="^[^,]+,[^,]+$")]) -> models.Comparison:
    """What differs between two runs (`a,b`), and how their rewards ended."""
    a, b = (store.run(run_id) for run_id in runs.split(","))
    found = differing(json.loads(a.spec), json.loads(b.spec))
    return models.Comparison(
        spec_differences=[(path, old, new) for path, (old, new) in found.items()],
        headline=list(_headline(store, a, b)),
    )


def _headline(store: Store, a: RunRow, b: RunRow) -> Iterator[models.MetricChange]:
    ends = [charts.ends(store, run, ENDS) for run in (a, b)]
    for name in dict.fromkeys([*ends[0], *ends[1]]):
        if name.removeprefix("eval/") == "reward" or ("rewards/" in name and name.endswith("/mean")):
            yield models.MetricChange(name=name, a=ends[0].get(name), b=ends[1].get(name))
