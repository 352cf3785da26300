import pytest

from runner.grpo import guards
from runner.grpo.guards import Breaker, RewardFailure, duration, goal_reached, over_budget, unmet
from runner.grpo.types import Outcome, Reason, Score, Scored
from runner.spec.model import Expect, Limits, Stop


def batch(failed: int, of: int, name: str = "format") -> Scored:
    outcomes = [Outcome.EXCEPTION] * failed + [Outcome.OK] * (of - failed)
    scores = [[Score(name=name, value=None, outcome=outcome, error="ValueError: no")] for outcome in outcomes]
    return Scored(
        version="v",
        names=("format",),
        weights=(1.0,),
        values=[[None]] * of,
        rewards=[None] * of,
        advantages=[0.0] * of,
        scores=scores,
    )


def test_a_batch_with_more_than_half_its_calls_failed_stops_the_run() -> None:
    Breaker().check(batch(4, 8), frozenset())
    with pytest.raises(RewardFailure, match="62% of the reward calls"):
        Breaker().check(batch(5, 8), frozenset())


def test_three_bad_batches_in_a_row_stop_the_run_and_a_good_one_between_resets() -> None:
    breaker = Breaker()
    for failed in (2, 2, 0, 2, 2):
        breaker.check(batch(failed, 8), frozenset())
    with pytest.raises(RewardFailure):
        breaker.check(batch(2, 8), frozenset())


def test_one_failure_is_enough_where_the_job_says_fail() -> None:
    with pytest.raises(RewardFailure, match="format: exception under on_error: fail"):
        Breaker().check(batch(1, 8), frozenset({"format"}))


def test_failures_of_a_recorded_only_function_do_not_count() -> None:
    Breaker().check(
        Scored(
            version="v",
            names=("format",),
            weights=(1.0,),
            values=[[1.0]],
            rewards=[1.0],
            advantages=[0.0],
            scores=[
                [
                    Score(name="format", value=1.0, outcome=Outcome.OK),
                    Score(name="length", value=None, outcome=Outcome.TIMEOUT),
                ]
            ],
        ),
        frozenset({"length"}),
    )


def test_a_goal_must_hold_for_as_many_values_as_asked() -> None:
    stop = Stop(metric="eval/reward", at_least=0.6, **{"for": 2})
    assert not goal_reached(stop, {"eval/reward": [(0, 0.7)]})
    assert not goal_reached(stop, {"eval/reward": [(0, 0.7), (5, 0.5), (10, 0.6)]})
    assert goal_reached(stop, {"eval/reward": [(0, 0.1), (5, 0.6), (10, 0.6)]})


def test_budgets_end_a_run_with_their_own_reason() -> None:
    assert over_budget(Limits(max_duration="2m"), 119, 0) is None
    assert over_budget(Limits(max_duration="2m"), 120, 0) is Reason.TIME_LIMIT
    assert over_budget(Limits(max_tokens=1000), 0, 1000) is Reason.TOKEN_LIMIT
    assert [duration(text) for text in ("90s", "30m", "12h", "2d")] == [90, 1800, 43200, 172800]


def test_what_was_expected_and_did_not_come_is_said_in_words() -> None:
    history = {"reward": [(1, 0.1), (2, 0.3), (3, 0.5)]}
    assert unmet([Expect(metric="reward", at_least=0.4, last=2)], history) == []
    assert unmet([Expect(metric="reward", at_least=0.6, last=2)], history) == [
        "reward is 0.4 at the end (mean of the last 2); expected at least 0.6"
    ]
    assert unmet([Expect(metric="reward", rises_by=0.5)], history) == ["reward rose by 0.4; expected 0.5"]
    assert unmet([Expect(metric="rewards/x/mean", at_least=0)], history) == [
        "rewards/x/mean was never recorded; recorded are: reward"
    ]


def test_a_loss_that_is_no_number_is_divergence() -> None:
    assert guards.diverged({"loss": float("nan")})
    assert guards.diverged({"loss": 1.0, "grad_norm": float("inf")})
    assert not guards.diverged({"loss": 1.0, "reward": float("nan")})
