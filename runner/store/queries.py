"""What people and pages ask of the store. Functions over an open `Store`; lists are bounded and go on from a cursor."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Literal

from runner.journal.events import Split
from runner.journal.states import Reason, State
from runner.store.errors import UnknownRun
from runner.store.ingest import rollout_ids
from runner.store.rows import (
    CheckpointRow,
    CompletionRow,
    EventRow,
    GroupRow,
    JobRow,
    OutcomeRow,
    QueuedRow,
    RewardLogRow,
    RewardVersionRow,
    RunRow,
    ScoreRow,
    columns,
)
from runner.store.store import QUEUE_ORDER, Store

Order = Literal["step", "best", "worst"]
MANY_EVENTS = 10_000
"""After so many the runs they are about are no longer told apart."""


class Where:
    """Conditions joined by AND; one that is given None is left out."""

    def __init__(self) -> None:
        self.params: list[object] = []
        self._conditions: list[str] = []

    def add(self, condition: str, *params: object) -> None:
        if None not in params:
            self._conditions.append(condition)
            self.params += params

    @property
    def empty(self) -> bool:
        return not self._conditions

    def __str__(self) -> str:
        return " AND ".join(self._conditions) or "1"


def runs(
    store: Store,
    *,
    job: str | None = None,
    states: Sequence[State] = (),
    before: int | None = None,
    limit: int = 100,
) -> list[RunRow]:
    """Runs, latest first. `before` is the `number` of the last one of the page before."""
    where = Where()
    where.add("job = ?", job)
    where.add("number < ?", before)
    if states:
        where.add(f"state IN ({', '.join('?' * len(states))})", *states)
    sql = f"SELECT {columns(RunRow)} FROM runs WHERE {where} ORDER BY number DESC LIMIT ?"
    return store.fetch(RunRow, sql, [*where.params, limit])


def find_run(store: Store, name: str) -> RunRow:
    """The run with this id, else the latest of the job with this name, else the one whose id begins so.

    Raises UnknownRun when there is none, or more than one id begins so.
    """
    sql = f"SELECT {columns(RunRow)} FROM runs WHERE %s ORDER BY number DESC LIMIT 6"
    for condition in ("id = ?", "job = ?"):
        found = store.fetch(RunRow, sql % condition, [name])
        if found:
            return found[0]
    found = store.fetch(RunRow, sql % "substr(id, 1, length(?1)) = ?1", [name])
    if len(found) == 1:
        return found[0]
    if not found:
        raise UnknownRun(f"no run or job {name!r}; `runner ls` shows what there is")
    raise UnknownRun(f"{name!r} could be {', '.join(run.id for run in found[:5])}; write more of it")


def latest_runs(store: Store) -> list[RunRow]:
    """The latest run of every job."""
    sql = f"SELECT {columns(RunRow)} FROM runs WHERE number IN (SELECT max(number) FROM runs GROUP BY job)"
    return store.fetch(RunRow, sql)


def live(store: Store) -> list[str]:
    """Ids of the runs that processes of ours are working on."""
    sql = "SELECT id FROM runs WHERE state IN ('starting', 'running') ORDER BY number"
    return [run_id for (run_id,) in store.db.conn.execute(sql)]


def revision_runs(store: Store, job: str, revision: str, backend: str) -> list[RunRow]:
    """Runs of one revision on one backend, latest first: none means that a scan has something new."""
    sql = f"SELECT {columns(RunRow)} FROM runs WHERE job = ? AND revision = ? AND backend = ? ORDER BY number DESC"
    return store.fetch(RunRow, sql, [job, revision, backend])


def queue(store: Store) -> list[QueuedRow]:
    """The runs that wait, in the order in which they are to start."""
    sql = f"SELECT {columns(QueuedRow)} FROM runs WHERE state = 'queued' ORDER BY {QUEUE_ORDER}"
    return store.fetch(QueuedRow, sql)


def held(store: Store, reasons: Collection[Reason]) -> list[RunRow]:
    """Runs that are held for one of these reasons and that no newer run of the job has followed."""
    marks = ", ".join("?" * len(reasons))
    sql = (
        f"SELECT {columns(RunRow)} FROM runs WHERE state = 'held' AND want = 'run' AND reason IN ({marks}) "
        "AND NOT EXISTS (SELECT 1 FROM runs AS r WHERE r.job = runs.job AND r.backend = runs.backend "
        "AND r.number > runs.number)"
    )
    return store.fetch(RunRow, sql, list(reasons))


def jobs(store: Store) -> list[JobRow]:
    """Job files as the last scan saw them, by name."""
    return store.fetch(JobRow, f"SELECT {columns(JobRow)} FROM jobs ORDER BY name")


def metrics(store: Store, run_id: str, names: Sequence[str] = ()) -> dict[str, list[tuple[int, float | None]]]:
    """Series by metric name, each in the order of steps; all of the run's when no names are given."""
    where = Where()
    where.add("run_id = ?", run_id)
    if names:
        where.add(f"name IN ({', '.join('?' * len(names))})", *names)
    sql = f"SELECT name, step, value FROM metrics WHERE {where} ORDER BY name, step"
    series: dict[str, list[tuple[int, float | None]]] = {}
    for name, step, value in store.db.conn.execute(sql, where.params):
        series.setdefault(name, []).append((step, value))
    return series


def last_metrics(store: Store, run_id: str) -> dict[str, float | None]:
    """The latest value of every metric."""
    # SQLite takes the bare column from the row that has the maximum.
    sql = "SELECT name, value, max(step) FROM metrics WHERE run_id = ? GROUP BY name ORDER BY name"
    return {name: value for name, value, _ in store.db.conn.execute(sql, (run_id,))}


_ROLLOUTS = (
    "SELECT r.id, r.run_id, r.split, r.step, r.group_id, r.idx, r.example_id, e.prompt, r.completion, r.n_tokens, "
    "r.finish_reason, r.reward, r.advantage, r.reward_version "
    "FROM rollouts r LEFT JOIN examples e ON e.run_id = r.run_id AND e.id = r.example_id"
)
_ORDERS: dict[Order, tuple[str, str]] = {
    "step": ("r.id > ?", "r.id"),
    "best": ("(r.reward, -r.id) < (SELECT reward, -id FROM rollouts WHERE id = ?)", "r.reward DESC, r.id"),
    "worst": ("(r.reward, r.id) > (SELECT reward, id FROM rollouts WHERE id = ?)", "r.reward, r.id"),
}


def completions(
    store: Store,
    run_id: str,
    *,
    step: int | None = None,
    split: Split | None = None,
    group_id: int | None = None,
    example_id: int | None = None,
    prompt: str | None = None,
    failed: bool = False,
    order: Order = "step",
    after: int | None = None,
    limit: int = 50,
) -> list[CompletionRow]:
    """Completions with their scores. `after` is the id of the last one of the page before.

    `prompt` is a text that the prompt contains; `failed` takes only those that a reward failed on.
    `best` and `worst` go by reward and leave out completions that have none.
    """
    where = Where()
    where.add("r.run_id = ?", run_id)
    where.add("r.step = ?", step)
    where.add("r.split = ?", split)
    where.add("r.group_id = ?", group_id)
    where.add("r.example_id = ?", example_id)
    where.add("instr(e.prompt, ?) > 0", prompt)
    if failed:
        where.add("EXISTS (SELECT 1 FROM scores s WHERE s.rollout_id = r.id AND s.outcome NOT IN ('ok', 'none'))")
    behind, by = _ORDERS[order]
    where.add(behind, after)
    if order != "step":
        where.add("r.reward IS NOT NULL")
    rows = store.fetch(CompletionRow, f"{_ROLLOUTS} WHERE {where} ORDER BY {by} LIMIT ?", [*where.params, limit])
    return with_scores(store, rows)


def completion(store: Store, rollout_id: int) -> CompletionRow | None:
    """One completion with its scores; None when there is none (any more)."""
    rows = with_scores(store, store.fetch(CompletionRow, f"{_ROLLOUTS} WHERE r.id = ?", [rollout_id]))
    return rows[0] if rows else None


def with_scores(store: Store, rows: list[CompletionRow]) -> list[CompletionRow]:
    """The rows with their scores filled in."""
    sql = f"SELECT {columns(ScoreRow)} FROM scores WHERE rollout_id IN (SELECT value FROM json_each(?))"
    scores: dict[int, dict[str, ScoreRow]] = {row.id: {} for row in rows}
    for score in store.fetch(ScoreRow, sql, [f"[{','.join(map(str, scores))}]"]):
        scores[score.rollout_id][score.name] = score
    return [replace(row, scores=scores[row.id]) for row in rows]


def groups(store: Store, run_id: str, step: int, split: Split = "train") -> list[GroupRow]:
    """The groups of one step, in their order."""
    sql = (
        "SELECT r.run_id, r.split, r.step, r.group_id, r.example_id, e.prompt, count(*) AS completions, "
        "count(r.reward) AS scored, avg(r.reward) AS reward_mean, min(r.reward) AS reward_min, "
        "max(r.reward) AS reward_max "
        "FROM rollouts r LEFT JOIN examples e ON e.run_id = r.run_id AND e.id = r.example_id "
        "WHERE r.run_id = ? AND r.split = ? AND r.step = ? GROUP BY r.group_id ORDER BY r.group_id"
    )
    return store.fetch(GroupRow, sql, [run_id, split, step])


def steps(store: Store, run_id: str, split: Split = "train") -> list[int]:
    """Steps that have completions."""
    least = "(SELECT min(step) FROM rollouts WHERE run_id = :run AND split = :split AND step > %s)"
    # From each step a jump to the next one: DISTINCT would read every rollout's index entry.
    sql = (
        f"WITH RECURSIVE found(step) AS (SELECT {least % -1} UNION ALL SELECT {least % 'found.step'} FROM found "
        "WHERE found.step IS NOT NULL) SELECT step FROM found WHERE step IS NOT NULL"
    )
    return [step for (step,) in store.db.conn.execute(sql, {"run": run_id, "split": split})]


def example(store: Store, run_id: str, example_id: int) -> tuple[str, str] | None:
    """The exact prompt and the columns (JSON text) of an example the run has used."""
    sql = "SELECT prompt, columns FROM examples WHERE run_id = ? AND id = ?"
    row: tuple[str, str] | None = store.db.conn.execute(sql, (run_id, example_id)).fetchone()
    return row


def events(
    store: Store,
    run_id: str | None = None,
    *,
    after: int = 0,
    types: Sequence[str] = (),
    limit: int = 500,
) -> list[EventRow]:
    """What happened after the event with id `after`, in one run or in all: call again with the last id to follow."""
    where = Where()
    where.add("id > ?", after)
    where.add("run_id = ?", run_id)
    if types:
        where.add(f"type IN ({', '.join('?' * len(types))})", *types)
    sql = f"SELECT {columns(EventRow)} FROM events WHERE {where} ORDER BY id LIMIT ?"
    return store.fetch(EventRow, sql, [*where.params, limit])


def ids(store: Store) -> set[str]:
    """Of all runs."""
    return {run_id for (run_id,) in store.db.conn.execute("SELECT id FROM runs")}


def last_event(store: Store, run_id: str | None = None) -> int:
    """Id of the latest event, to follow from here on; 0 when nothing has happened."""
    where = Where()
    where.add("run_id = ?", run_id)
    sql = f"SELECT coalesce(max(id), 0) FROM events WHERE {where}"
    return int(store.db.conn.execute(sql, where.params).fetchone()[0])


def changed_runs(store: Store, after: int) -> list[str]:
    """Runs in which something happened after the event with id `after`; `*`, for all, when that is long ago."""
    sql = "SELECT DISTINCT run_id FROM (SELECT run_id FROM events WHERE id > ? LIMIT ?)"
    if last_event(store) - after > MANY_EVENTS:
        return ["*"]
    return [run_id for (run_id,) in store.db.conn.execute(sql, (after, MANY_EVENTS))]


def has_rollouts(store: Store, run_id: str, split: Split | None = None, at_least: int = 1) -> bool:
    """Whether the run has so many completions, in this split or in both."""
    where = Where()
    where.add("run_id = ?", run_id)
    where.add("split = ?", split)
    sql = f"SELECT 1 FROM rollouts WHERE {where} LIMIT 1 OFFSET ?"
    return store.db.conn.execute(sql, (*where.params, at_least - 1)).fetchone() is not None


def reward_logs(
    store: Store,
    run_id: str,
    *,
    name: str | None = None,
    outcome: str | None = None,
    after: tuple[int, str] = (0, ""),
    limit: int = 200,
) -> list[RewardLogRow]:
    """Reward calls that failed or printed. `after` is (rollout_id, name) of the last one of the page before."""
    low, high = rollout_ids(store.run(run_id).number)
    where = Where()
    where.add("rollout_id > ? AND rollout_id < ?", low, high)
    where.add("(rollout_id, name) > (?, ?)", *after)
    where.add("name = ?", name)
    where.add("outcome = ?", outcome)
    sql = f"SELECT {columns(RewardLogRow)} FROM reward_logs WHERE {where} ORDER BY rollout_id, name LIMIT ?"
    return store.fetch(RewardLogRow, sql, [*where.params, limit])


def outcomes(store: Store, run_id: str) -> list[OutcomeRow]:
    """How many calls of each reward function ended how."""
    low, high = rollout_ids(store.run(run_id).number)
    sql = (
        "SELECT name, outcome, count(*) AS calls, sum(seconds) AS seconds FROM scores "
        "WHERE rollout_id > ? AND rollout_id < ? GROUP BY name, outcome ORDER BY name, outcome"
    )
    return store.fetch(OutcomeRow, sql, [low, high])


def value_ranges(store: Store, run_id: str) -> dict[str, tuple[float, float]]:
    """Least and greatest value that each reward function gave in training."""
    sql = (
        "SELECT s.name, min(s.value), max(s.value) FROM rollouts r JOIN scores s ON s.rollout_id = r.id "
        "WHERE r.run_id = ? AND r.split = 'train' AND s.value IS NOT NULL GROUP BY s.name"
    )
    return {name: (low, high) for name, low, high in store.db.conn.execute(sql, (run_id,))}


def checkpoints(store: Store, run_id: str) -> list[CheckpointRow]:
    """The run's checkpoints in the order of steps; those with `kept` are on the disk."""
    sql = f"SELECT {columns(CheckpointRow)} FROM checkpoints WHERE run_id = ? ORDER BY step"
    return store.fetch(CheckpointRow, sql, [run_id])


def reward_versions(store: Store, run_id: str) -> list[RewardVersionRow]:
    """The run's reward versions in the order of their numbers."""
    sql = f"SELECT {columns(RewardVersionRow)} FROM reward_versions WHERE run_id = ? ORDER BY version"
    return store.fetch(RewardVersionRow, sql, [run_id])
