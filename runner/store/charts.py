"""Metrics as charts need them: bounded in number, without losing a spike."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

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
    sql = (
        "SELECT name, min(step), avg(value), min(value), max(value), count(*) - count(value) "
        f"FROM metrics WHERE {where} GROUP BY name, CASE WHEN step <= ? OR step >= ? THEN -1 - step ELSE step / ? END "
        "ORDER BY name, min(step)"
    )
    own = first if size is None else -1  # a step with a bucket of its own
    rows = store.db.conn.execute(sql, [*where.params, own, end, size or width(first, end, points)])
    return {name: _series(list(group)) for name, group in groupby(rows, itemgetter(0))}


def _series(buckets: Sequence[tuple[Any, ...]]) -> Series:
    _, steps, values, lows, highs, missing = (list(column) for column in zip(*buckets, strict=True))
    infinite = sum(value in (math.inf, -math.inf) for value in values)  # an infinite step makes an infinite mean
    if infinite:
        values, lows, highs = (
            [None if value is None or math.isinf(value) else value for value in column]
            for column in (values, lows, highs)
        )
    return Series(steps=steps, values=values, lows=lows, highs=highs, nonfinite=sum(missing) + infinite)


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
