"""Metrics as charts need them: bounded in number, without losing a spike."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import cast

import msgspec

from runner.store.queries import Where
from runner.store.rows import RunRow
from runner.store.store import Store

SPARKS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A metric in buckets of steps. Buckets begin at multiples of their width, so that old ones stay as new steps come.

    The first and the last step are buckets of their own.
    """

    steps: list[int]
    """First step of each bucket."""
    values: list[float | None]
    """Mean of each; None where no step of it has a finite value."""
    lows: list[float | None]
    highs: list[float | None]
    nonfinite: int
    """How many steps had no finite value."""


def names(store: Store, run_id: str) -> list[str]:
    """Names of the run's metrics."""
    # From each name a jump to the next one: DISTINCT would read every value.
    least = "(SELECT min(name) FROM metrics WHERE run_id = :run AND name > {})"
    first, following = least.format(":none"), least.format("found.name")
    sql = (
        f"WITH RECURSIVE found(name) AS (SELECT {first} UNION ALL SELECT {following} FROM found "
        "WHERE found.name IS NOT NULL) SELECT name FROM found WHERE name IS NOT NULL"
    )
    return [name for (name,) in store.db.conn.execute(sql, {"run": run_id, "none": ""})]


def width(first: int, last: int, points: int) -> int:
    """Steps in a bucket: the smallest power of two that makes at most `points` of them."""
    return 1 << max(0, math.ceil(math.log2(max(last - first + 1, 1) / points)))


def series(
    store: Store,
    run: RunRow,
    wanted: Sequence[str] = (),
    *,
    first: int = 0,
    last: int | None = None,
    size: int | None = None,
    points: int = 600,
) -> dict[str, Series]:
    """The metrics of these names (all, when none are given), each with about as many buckets as asked for.

    `size`: steps in a bucket, instead; for what has come since an earlier call. The buckets then are that call's, if
    `first` is a multiple of it.
    """
    end = run.last_step if last is None else last
    where = Where()
    where.add("run_id = ?", run.id)
    if wanted:
        where.add("name IN (SELECT value FROM json_each(?))", json.dumps(list(wanted)))
    where.add("step BETWEEN ? AND ?", first, end)
    # A row for each metric: SQLite would sort all values to put them into buckets. Within a row they come in the order
    # of the table's key, which ends with the step.
    sql = (
        "SELECT name, json_group_array(step), json_group_array(CASE WHEN abs(value) < 1e308 THEN value END) "
        f"FROM metrics WHERE {where} GROUP BY name"
    )
    rows = store.db.conn.execute(sql, where.params)
    bounds = first if size is None else -1, end, size or width(first, end, points)
    return {name: _series(_STEPS.decode(steps), _VALUES.decode(values), *bounds) for name, steps, values in rows}


_STEPS = msgspec.json.Decoder(tuple[int, ...])
_VALUES = msgspec.json.Decoder(list[float | None])


def _series(steps: tuple[int, ...], values: list[float | None], first: int, last: int, size: int) -> Series:
    """A value that is not finite is None."""
    known = cast("list[float]", values)
    missing = values.count(None)
    if size == 1:
        return Series(steps=list(steps), values=values, lows=values, highs=values, nonfinite=missing)
    places = _places(steps, first, last, size)
    buckets = [known[begin:end] for begin, end in pairwise([*places, len(steps)])]
    if missing:
        return _with_gaps([steps[place] for place in places], buckets, missing)
    return Series(
        steps=[steps[place] for place in places],
        values=[sum(bucket) / len(bucket) for bucket in buckets],
        lows=list(map(min, buckets)),
        highs=list(map(max, buckets)),
        nonfinite=0,
    )


def _with_gaps(steps: list[int], buckets: Sequence[Sequence[float | None]], missing: int) -> Series:
    finite = [[value for value in bucket if value is not None] for bucket in buckets]
    return Series(
        steps=steps,
        values=[sum(bucket) / len(bucket) if bucket else None for bucket in finite],
        lows=[min(bucket) if bucket else None for bucket in finite],
        highs=[max(bucket) if bucket else None for bucket in finite],
        nonfinite=missing,
    )


@lru_cache(maxsize=4)
def _places(steps: tuple[int, ...], first: int, last: int, size: int) -> tuple[int, ...]:
    """Where among the steps a bucket begins. Most metrics of a run have the same steps."""
    edges = {first + 1, last, *range(steps[0] - steps[0] % size, last, size)}
    found = sorted({0} | {bisect_left(steps, edge) for edge in edges})
    return tuple(place for place in found if place < len(steps))


def sparklines(store: Store, runs: Sequence[RunRow], metric: str = "reward") -> Mapping[str, list[tuple[int, float]]]:
    """For each run the metric at no more than 60 steps, evenly spread, the last one among them."""
    places = [[run.id, step] for run in runs for step in _spread(run.last_step)]
    sql = (
        "SELECT m.run_id, m.step, m.value FROM json_each(?) j CROSS JOIN metrics m "
        "ON m.run_id = j.value ->> 0 AND m.name = ? AND m.step = j.value ->> 1 WHERE m.value IS NOT NULL ORDER BY j.key"
    )
    found: dict[str, list[tuple[int, float]]] = {run.id: [] for run in runs}
    for run_id, step, value in store.db.conn.execute(sql, [json.dumps(places), metric]):
        found[run_id].append((step, value))
    return found


def _spread(last: int) -> list[int]:
    count = min(last, SPARKS)
    return [last * i // count for i in range(1, count + 1)]


def steps(store: Store, run_id: str, metric: str) -> list[int]:
    """Steps at which the metric was recorded."""
    sql = "SELECT step FROM metrics WHERE run_id = ? AND name = ? ORDER BY step"
    return [step for (step,) in store.db.conn.execute(sql, (run_id, metric))]


def ends(store: Store, run: RunRow, share: float) -> dict[str, float]:
    """Each metric's mean over the last part of the run; an evaluation's last value."""
    since = run.last_step - int(run.last_step * share)
    means = store.db.conn.execute(
        "SELECT name, avg(value) FROM metrics WHERE run_id = ? AND name NOT GLOB 'eval/*' AND step >= ? GROUP BY name",
        (run.id, since),
    )
    # SQLite takes the bare column from the row that has the maximum.
    lasts = store.db.conn.execute(
        "SELECT name, value, max(step) FROM metrics WHERE run_id = ? AND name GLOB 'eval/*' GROUP BY name", (run.id,)
    )
    found = [*means, *((name, value) for name, value, _ in lasts)]
    return {name: value for name, value in found if value is not None}
