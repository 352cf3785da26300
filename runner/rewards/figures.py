"""What scores say of their reward functions: errors, time, signal within groups, and what an edit changes.

No processes here: scores in, figures out. The signal that GRPO learns from is the spread of the reward *within* a
group, so every figure about values is taken per group.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from runner.rewards.contract import Score

Values = Sequence[float | None]
"""One value for each completion of a group; None where there is none."""

EPSILON = 1e-9
"""Differences up to this are rounding, as when a sum is taken in another order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The first failed call of one kind."""

    outcome: str
    error: str
    row: int
    """Number of the completion in the batch, group-major."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionFigures:
    """One reward function on some groups of completions, each call made twice."""

    name: str
    weight: float
    calls: int
    outcomes: Mapping[str, int]
    """How many calls ended how."""
    mean: float | None
    least: float | None
    greatest: float | None
    spread: float | None
    """Mean over the groups of the standard deviation (population) within the group."""
    flat_groups: int
    """Groups in which it says the same of every completion: it teaches nothing there."""
    groups: int
    p50: float
    p95: float
    """Seconds of a call."""
    unsteady: int | None
    """Calls that gave something else the second time; None when there was no second time."""
    columns: Sequence[str]
    """Dataset columns its source reads."""
    failures: Sequence[Failure]

    @property
    def failed(self) -> int:
        return self.calls - self.outcomes.get("ok", 0) - self.outcomes.get("none", 0)


def function_figures(
    scores: Sequence[Score],
    again: Sequence[Score] | None,
    sizes: Sequence[int],
    *,
    weight: float,
    columns: Sequence[str],
) -> FunctionFigures:
    """The figures of one function: its scores of every completion, group-major; `sizes` are those of the groups."""
    values = [score.value for score in scores if score.value is not None]
    spreads = [spread for group in _split([score.value for score in scores], sizes) if (spread := _spread(group)) >= 0]
    seconds = sorted(score.seconds for score in scores)
    return FunctionFigures(
        name=scores[0].name,
        weight=weight,
        calls=len(scores),
        outcomes=dict(Counter(str(score.outcome) for score in scores)),
        mean=statistics.fmean(values) if values else None,
        least=min(values, default=None),
        greatest=max(values, default=None),
        spread=statistics.fmean(spreads) if spreads else None,
        flat_groups=sum(spread <= EPSILON for spread in spreads),
        groups=len(spreads),
        p50=_quantile(seconds, 0.5),
        p95=_quantile(seconds, 0.95),
        unsteady=None if again is None else sum(map(_differ, scores, again)),
        columns=columns,
        failures=_failures(scores),
    )


def _differ(one: Score, other: Score) -> bool:
    return (one.outcome, one.value) != (other.outcome, other.value)


def _failures(scores: Sequence[Score]) -> list[Failure]:
    """The first of each outcome and first line of the error."""
    found: dict[tuple[str, str], Failure] = {}
    for row, score in enumerate(scores):
        if score.outcome.is_error:
            error = score.error or ""
            key = (str(score.outcome), error.partition("\n")[0])
            found.setdefault(key, Failure(outcome=key[0], error=error, row=row))
    return list(found.values())[:5]


def _split(values: Sequence[float | None], sizes: Sequence[int]) -> Iterable[Values]:
    start = 0
    for size in sizes:
        yield values[start : start + size]
        start += size


def _spread(group: Values) -> float:
    """Population standard deviation; -1 where fewer than two values make none."""
    values = [value for value in group if value is not None]
    return statistics.pstdev(values) if len(values) > 1 else -1.0


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


# ---------------------------------------------------------------------------------------------------- before and after


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One series of values before and after an edit, over the same completions."""

    name: str
    """A function's name; `reward` for the weighted sum."""
    values: int
    """Completions with a value both before and after."""
    changed: int
    mean_before: float | None
    mean_after: float | None
    rank_correlation: float | None
    """Spearman's ρ over all completions; None where one side is constant."""
    group_rank_correlation: float | None
    """Mean of ρ within the groups in which both sides vary."""
    new_winners: int
    """Groups whose best completions are others than before, of those that vary before or after."""
    gained: int
    """Groups without signal before and with signal after."""
    lost: int
    groups: int


def change(name: str, before: Sequence[Values], after: Sequence[Values]) -> Change:
    """What an edit did to one series, given by group."""
    pairs = [
        (old, new)
        for group_before, group_after in zip(before, after, strict=True)
        for old, new in zip(group_before, group_after, strict=True)
        if old is not None and new is not None
    ]
    olds, news = [old for old, _ in pairs], [new for _, new in pairs]
    groups = list(zip(before, after, strict=True))
    within = [rho for old, new in groups if (rho := _spearman_of(old, new)) is not None]
    live = [(_varies(old), _varies(new)) for old, new in groups]
    return Change(
        name=name,
        values=len(pairs),
        changed=sum(abs(old - new) > EPSILON for old, new in pairs),
        mean_before=statistics.fmean(olds) if olds else None,
        mean_after=statistics.fmean(news) if news else None,
        rank_correlation=spearman(olds, news),
        group_rank_correlation=statistics.fmean(within) if within else None,
        new_winners=sum(any(pair) and _winners(*group) for pair, group in zip(live, groups, strict=True)),
        gained=sum(new and not old for old, new in live),
        lost=sum(old and not new for old, new in live),
        groups=len(groups),
    )


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's ρ: Pearson's correlation of the ranks, ties sharing their mean rank. None where a side is constant."""
    if len(one) < 2:
        return None
    x, y = _ranks(one), _ranks(other)
    mean = (len(one) - 1) / 2
    covariance = math.fsum((a - mean) * (b - mean) for a, b in zip(x, y, strict=True))
    scale = math.sqrt(math.fsum((a - mean) ** 2 for a in x) * math.fsum((b - mean) ** 2 for b in y))
    return covariance / scale if scale else None


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for position in order[start : end + 1]:
            ranks[position] = (start + end) / 2
        start = end + 1
    return ranks


def _spearman_of(old: Values, new: Values) -> float | None:
    pairs = [(a, b) for a, b in zip(old, new, strict=True) if a is not None and b is not None]
    return spearman([a for a, _ in pairs], [b for _, b in pairs])


def _varies(group: Values) -> bool:
    return _spread(group) > EPSILON


def _winners(old: Values, new: Values) -> bool:
    """Whether the set of best completions is another one; not where one side has no values at all."""
    before, after = _best(old), _best(new)
    return bool(before and after) and before != after


def _best(group: Values) -> set[int]:
    top = max((value for value in group if value is not None), default=None)
    return {i for i, value in enumerate(group) if top is not None and value is not None and value >= top - EPSILON}
