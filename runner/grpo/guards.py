"""When a run ends before its last step: goals, budgets, divergence, rewards that fail too often."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.grpo.types import Outcome, Reason, Scored
from runner.spec.model import Best, Condition, Expect, Limits, Stop

History = Mapping[str, Sequence[tuple[int, float]]]
"""Metric → (step, value), oldest first; empty for a metric that is recorded but that no condition names."""

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
WORST_BATCH = 0.5
"""Share of failed calls in one batch above which the run stops."""
BAD_BATCH = 0.2
BAD_BATCHES = 3
"""Consecutive batches above BAD_BATCH after which the run stops."""


class RewardFailure(Exception):
    """Rewards failed in a way the job does not accept. The batch is recorded; the run ends as `reward_error`."""


class Breaker:
    """Stops a run whose rewards mostly fail: what is left would teach the model from few and biased scores."""

    def __init__(self) -> None:
        self._bad_batches = 0

    def check(self, scored: Scored, fail_on: frozenset[str]) -> None:
        """Raises RewardFailure for a failed call of a function in `fail_on`, or for too many failed calls."""
        calls = [score for row in scored.scores for score in row if score.name in scored.names]
        failed = [score for score in calls if score.outcome.is_error]
        for score in failed:
            if score.outcome is Outcome.BUDGET:
                raise RewardFailure(f"{score.name}: {score.error}; `rewards.{score.name}.budget` in the job says so")
            if score.name in fail_on:
                raise RewardFailure(f"{score.name}: {score.outcome} under on_error: fail\n{score.error or ''}")
        share = len(failed) / len(calls)
        self._bad_batches = self._bad_batches + 1 if share > BAD_BATCH else 0
        if share > WORST_BATCH or self._bad_batches >= BAD_BATCHES:
            worst = failed[0]
            raise RewardFailure(
                f"{share:.0%} of the reward calls of this batch failed; first: {worst.name}: {worst.outcome}\n"
                f"{worst.error or ''}"
            )


def diverged(metrics: Mapping[str, float]) -> bool:
    """Whether loss or gradient norm is NaN or infinite."""
    return any(not math.isfinite(metrics.get(name, 0.0)) for name in ("loss", "grad_norm"))


def over_budget(limits: Limits, seconds: float, tokens: int) -> Reason | None:
    if limits.max_duration is not None and seconds >= duration(limits.max_duration):
        return Reason.TIME_LIMIT
    if limits.max_tokens is not None and tokens >= limits.max_tokens:
        return Reason.TOKEN_LIMIT
    return None


class LiveLimits:
    """A run's budgets, which may be edited while it trains: the file `live.json` in its folder, once there is one."""

    def __init__(self, path: Path, submitted: Limits) -> None:
        self._path, self._limits = path, submitted
        self._changed_at = 0

    def __call__(self) -> Limits:
        with contextlib.suppress(OSError):
            changed_at = self._path.stat().st_mtime_ns
            if changed_at != self._changed_at:
                self._limits = Limits.model_validate(json.loads(self._path.read_text())["limits"])
                self._changed_at = changed_at
        return self._limits


def duration(text: str) -> int:
    """Seconds of `90s`, `30m`, `12h`, `2d`."""
    return int(text[:-1]) * UNITS[text[-1]]


def goal_reached(stop: Stop | None, history: History) -> bool:
    """Whether the last `for` values of the metric all keep the bound."""
    if stop is None:
        return False
    last = [value for _, value in history.get(stop.metric, ())][-stop.for_ :]
    return len(last) == stop.for_ and all(within(stop, value) for value in last)


def within(condition: Condition, value: float) -> bool:
    return (condition.at_least is None or value >= condition.at_least) and (
        condition.at_most is None or value <= condition.at_most
    )


def best_step(best: Best, history: History, steps: Collection[int]) -> int | None:
    """The one of `steps` at which the metric was best, the latest of equals; None where it was recorded at none."""
    sign = 1 if best.mode == "max" else -1
    values = [(sign * value, step) for step, value in history.get(best.metric, ()) if step in steps]
    return max(values)[1] if values else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What came of one expectation."""

    end: float | None
    """Mean of the last `last` values; None where the metric was never recorded."""
    rise: float | None
    """`end` minus the mean of the first `last` values."""
    unmet: list[str]
    """What did not come, in words; empty when it is met."""


def unmet(expects: Sequence[Expect], history: History) -> list[str]:
    """What was expected and did not come, in words. A metric that was never recorded is unmet."""
    return [sentence for expect in expects for sentence in judge(expect, history).unmet]


def judge(expect: Expect, history: History) -> Judged:
    """The one rule by which an expectation is met."""
    values = [value for _, value in history.get(expect.metric, ())]
    if not values:
        recorded = ", ".join(sorted(history)) or "none"
        return Judged(end=None, rise=None, unmet=[f"{expect.metric} was never recorded; recorded are: {recorded}"])
    end = mean(values[-expect.last :])
    return judge_values(expect, end, end - mean(values[: expect.last]))


def judge_values(expect: Expect, end: float, rise: float) -> Judged:
    """As `judge`, of figures that were made already."""
    said: list[str] = []
    if not within(expect, end):
        said.append(
            f"{expect.metric} is {end:.4g} at the end (mean of the last {expect.last}); expected {bounds(expect)}"
        )
    if expect.rises_by is not None and rise < expect.rises_by:
        said.append(f"{expect.metric} rose by {rise:.4g}; expected {expect.rises_by}")
    return Judged(end=end, rise=rise, unmet=said)


def bounds(condition: Condition) -> str:
    """`at least 0.5 and at most 0.9`."""
    named = (("at least", condition.at_least), ("at most", condition.at_most))
    return " and ".join(f"{name} {value}" for name, value in named if value is not None)


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
