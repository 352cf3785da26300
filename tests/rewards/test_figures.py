"""What scores say of their functions, and what an edit changes."""

from __future__ import annotations

import pytest

from runner.rewards.contract import Outcome, Score
from runner.rewards.figures import change, function_figures, spearman


def score(value: float | None, outcome: Outcome = Outcome.OK, error: str | None = None, seconds: float = 0.0) -> Score:
    return Score(name="f", value=value, outcome=outcome, error=error, seconds=seconds)


def figures(first: list[Score], again: list[Score] | None, sizes: list[int]):
    return function_figures(first, again, sizes, weight=1.0, columns=("answer",))


def test_spread_is_taken_within_the_groups() -> None:
    found = figures([score(value) for value in (1.0, 1.0, 5.0, 7.0)], None, [2, 2])
    assert (found.mean, found.least, found.greatest) == (3.5, 1.0, 7.0)
    assert found.spread == 0.5
    assert (found.flat_groups, found.groups) == (1, 2)


def test_a_group_with_one_value_says_nothing_about_spread() -> None:
    found = figures([score(1.0), score(None, Outcome.NONE)], None, [2])
    assert (found.spread, found.groups, found.failed) == (None, 0, 0)


def test_errors_are_counted_by_outcome_and_shown_once_each() -> None:
    raised = score(None, Outcome.EXCEPTION, "KeyError: 'x'\n  rewards.py:3 in f")
    found = figures([score(1.0), raised, raised, score(None, Outcome.TIMEOUT, "no result after 1 s")], None, [4])
    assert found.outcomes == {"ok": 1, "exception": 2, "timeout": 1}
    assert found.failed == 3
    assert [(failure.outcome, failure.row) for failure in found.failures] == [("exception", 1), ("timeout", 3)]


def test_a_call_that_gives_something_else_the_second_time_is_unsteady() -> None:
    first = [score(1.0), score(2.0), score(3.0)]
    again = [score(1.0), score(2.5), score(None, Outcome.NONE)]
    assert figures(first, again, [3]).unsteady == 2
    assert figures(first, None, [3]).unsteady is None


def test_times_are_the_median_and_the_95th_percentile() -> None:
    found = figures([score(1.0, seconds=i / 100) for i in range(1, 101)], None, [100])
    assert (found.p50, found.p95) == (0.5, 0.95)


def test_spearman_ranks_ties_by_their_mean() -> None:
    assert spearman([1.0, 2.0, 3.0], [10.0, 20.0, 900.0]) == pytest.approx(1.0)
    assert spearman([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    # ranks 0, 1.5, 1.5, 3 and 0, 1, 2, 3: cov 4.5, variances 4.5 and 5
    assert spearman([1.0, 2.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert spearman([1.0, 1.0], [1.0, 2.0]) is None


def test_an_edit_is_told_by_order_winners_and_signal() -> None:
    before = [[1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [2.0, 1.0]]
    after = [[0.0, 1.0], [0.0, 1.0], [1.0, 1.0], [4.0, 2.0]]
    found = change("f", before, after)
    assert (found.values, found.changed) == (8, 6)
    assert (found.mean_before, found.mean_after) == (0.625, 1.25)
    assert found.group_rank_correlation == pytest.approx(0.0)  # -1 in the first group, +1 in the last
    assert (found.new_winners, found.gained, found.lost, found.groups) == (3, 1, 1, 4)


def test_completions_without_a_value_on_either_side_are_left_out() -> None:
    found = change("f", [[1.0, None, 3.0]], [[1.0, 2.0, None]])
    assert (found.values, found.changed) == (1, 0)
    assert found.rank_correlation is None


def test_a_group_that_fails_as_a_whole_loses_its_signal_and_has_no_new_winner() -> None:
    found = change("f", [[1.0, 0.0]], [[None, None]])
    assert (found.new_winners, found.lost) == (0, 1)
