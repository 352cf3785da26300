"""Series in buckets that stay where they are, sparklines, the names and ends of metrics."""

from __future__ import annotations

import math

import pytest

from runner.store import charts
from runner.store.charts import Series, width
from runner.store.store import Store
from tests.store.builders import submission


def record(store: Store, *values: tuple[str, int, float | None], last: int) -> str:
    run_id = store.submit(submission())
    with store.writing() as conn:
        conn.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?)", [(run_id, *value) for value in values])
        conn.execute("UPDATE runs SET last_step = ? WHERE id = ?", (last, run_id))
    return run_id


def test_a_short_series_is_given_step_by_step(store: Store) -> None:
    run_id = record(store, ("kl", 1, 0.5), ("kl", 2, 0.25), ("reward", 2, 1.0), last=2)
    found = charts.series(store, store.run(run_id), ["kl"])
    assert found == {"kl": Series(steps=[1, 2], values=[0.5, 0.25], lows=[0.5, 0.25], highs=[0.5, 0.25], nonfinite=0)}
    assert sorted(charts.series(store, store.run(run_id))) == ["kl", "reward"]


def test_a_long_series_is_in_buckets_and_keeps_its_ends_and_its_spikes(store: Store) -> None:
    values = [("kl", step, 9.0 if step == 11 else step / 10) for step in range(1, 17)]
    run_id = record(store, *values, last=16)
    found = charts.series(store, store.run(run_id), ["kl"], points=5)["kl"]
    assert found.steps == [1, 4, 8, 12, 16]
    assert found.highs == [0.3, 0.7, 9.0, 1.5, 1.6]
    assert found.lows == [0.1, 0.4, 0.8, 1.2, 1.6]
    assert found.values[0] == pytest.approx(0.2)
    assert found.values[2] == pytest.approx((0.8 + 0.9 + 1.0 + 9.0) / 4)


def test_old_buckets_stay_as_new_steps_come(store: Store) -> None:
    run_id = record(store, *(("kl", step, float(step)) for step in range(1, 1001)), last=1000)
    row = store.run(run_id)
    earlier = charts.series(store, row, first=0, last=900, points=100)["kl"]
    later = charts.series(store, row, first=0, last=1000, points=100)["kl"]
    assert len(later.steps) <= 102
    assert earlier.steps[:56] == later.steps[:56] == [1, *range(16, 896, 16)][:56]
    assert earlier.values[:56] == later.values[:56]


def test_what_came_since_is_asked_for_from_the_last_whole_bucket(store: Store) -> None:
    run_id = record(store, *(("kl", step, float(step)) for step in range(1, 1001)), last=1000)
    row = store.run(run_id)
    whole = charts.series(store, row, last=1000, points=200)["kl"]
    earlier = charts.series(store, row, last=997, points=200)["kl"]
    since = charts.series(store, row, first=992, last=1000, size=8)["kl"]
    kept = sum(step < since.steps[0] for step in earlier.steps)
    assert (since.steps, since.values) == ([992, 1000], [995.5, 1000.0])
    assert [*earlier.steps[:kept], *since.steps] == whole.steps
    assert [*earlier.values[:kept], *since.values] == whole.values


@pytest.mark.parametrize(("last", "points", "size"), [(1, 600, 1), (599, 600, 1), (600, 600, 2), (100_000, 600, 256)])
def test_a_bucket_is_a_power_of_two_of_steps(last: int, points: int, size: int) -> None:
    assert width(0, last, points) == size


def test_what_is_not_finite_is_none_and_counted(store: Store) -> None:
    run_id = record(store, ("loss", 1, math.inf), ("loss", 2, None), ("loss", 3, -math.inf), ("loss", 4, 1.0), last=4)
    found = charts.series(store, store.run(run_id))["loss"]
    assert (found.values, found.lows, found.highs) == ([None, None, None, 1.0],) * 3
    assert found.nonfinite == 3


def test_a_sparkline_has_at_most_60_points_and_the_last_step(store: Store) -> None:
    run_id = record(store, *(("reward", step, float(step)) for step in range(1, 1001)), last=1000)
    found = charts.sparklines(store, [store.run(run_id)])[run_id]
    assert len(found) == 60
    assert found[-1] == (1000, 1000.0)


def test_a_run_without_steps_has_an_empty_sparkline(store: Store) -> None:
    run_id = record(store, last=0)
    assert charts.sparklines(store, [store.run(run_id)]) == {run_id: []}


def test_names_and_steps_of_metrics(store: Store) -> None:
    run_id = record(store, ("b", 1, 1.0), ("a", 1, 1.0), ("a", 2, 1.0), last=2)
    other = store.submit(submission("other"))
    assert charts.names(store, run_id) == ["a", "b"]
    assert charts.names(store, other) == []
    assert charts.steps(store, run_id, "a") == [1, 2]


def test_the_end_of_a_run_is_its_last_tenth_and_its_last_evaluation(store: Store) -> None:
    values = [("reward", step, float(step)) for step in range(1, 21)]
    run_id = record(store, *values, ("eval/reward", 0, 5.0), ("eval/reward", 10, 7.0), last=20)
    assert charts.ends(store, store.run(run_id), 0.1) == {"reward": 19.0, "eval/reward": 7.0}
