"""Tries a new reward version on completions that the live one has scored, before it scores any that are trained on.

Refused is a version that fails where the live one did not: an error, a time-out or rubbish on a stored completion.
Other scores are no fault, for they are what an edit is for; how they change is reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from runner.rewards.contract import GroupCall, Outcome, Score

MOST_STORED = 64
"""Completions a version is tried on."""


class Scorer(Protocol):
    """One reward version, live."""

    def score(self, groups: Sequence[GroupCall], *, step: int, split: str) -> list[list[Score]]: ...


class Refused(Exception):
    """A version that must not go live. The message has the function, what happened, and its line in the file."""


class Abandoned(Exception):
    """Nobody waits for the verdict any more."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Completions with the scores of the version that was live."""

    calls: Sequence[GroupCall]
    scores: Sequence[Sequence[Score]]
    """[completions][functions], group-major."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How one function's scores of the stored completions differ from the live version's."""

    name: str
    before: float | None
    """Mean; None without a value, as for a function that is new."""
    after: float | None
    """None for a function that is gone."""
    rank: float | None
    """Spearman's rank correlation over the completions that have both scores; None where it has no meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a version that is fit to go live does."""

    changes: list[Change]
    reference: Mapping[str, float]
    """Mean of every function over the run's reference completions."""


def store(calls: Sequence[GroupCall], scores: Sequence[Sequence[Score]], most: int = MOST_STORED) -> Stored:
    """The first `most` completions of a scored batch; the last group may be cut."""
    kept: list[GroupCall] = []
    left = most
    for call in calls:
        if left <= 0:
            break
        kept.append(replace(call, completions=list(call.completions[:left]), finish=list(call.finish[:left])))
        left -= len(call.completions)
    return Stored(kept, list(scores[:most]))


def vet(
    scorer: Scorer,
    stored: Stored,
    reference: Stored | None,
    *,
    step: int,
    strict: bool,
    is_wanted: Callable[[], bool],
) -> Verdict:
    """Ends at the first failure, or when nobody waits for it any more (`is_wanted`).

    `reference`: the run's reference completions with the scores of its first version. `strict=False` for a version that
    has been live before: it is wanted back with its faults. Raises Refused and Abandoned.
    """

    def rows(of: Stored) -> list[list[Score]]:
        scored = _scored(scorer, of.calls, step, is_wanted)
        return [_accepted(before, row, strict) for before, row in zip(of.scores, scored, strict=True)]

    changes = _changes(stored.scores, rows(stored))
    return Verdict(changes=changes, reference=means(rows(reference)) if reference else {})


def _accepted(before: Sequence[Score], row: list[Score], strict: bool) -> list[Score]:
    if strict and (failed := _new_failure(before, row)) is not None:
        raise Refused(_in_words(failed))
    return row


def _scored(
    scorer: Scorer, calls: Sequence[GroupCall], step: int, is_wanted: Callable[[], bool]
) -> Iterator[list[Score]]:
    """One completion, then eight times as many each time: a hang costs one deadline, slow calls run side by side."""
    single = [
        replace(call, completions=[text], finish=call.finish[i : i + 1])
        for call in calls
        for i, text in enumerate(call.completions)
    ]
    start, size = 0, 1
    while start < len(single):
        if not is_wanted():
            raise Abandoned
        yield from scorer.score(single[start : start + size], step=step, split="train")
        start, size = start + size, size * 8


def _new_failure(before: Sequence[Score], after: Sequence[Score]) -> Score | None:
    """A call that fails where the live version's same function, or all of its functions for a new one, did not."""
    failed = {score.name for score in before if score.outcome.is_error}
    known = {score.name for score in before}
    for score in after:
        excused = score.name in failed or (score.name not in known and failed)
        if score.outcome.is_error and score.outcome is not Outcome.INFRASTRUCTURE and not excused:
            return score
    return None


def _in_words(score: Score) -> str:
    """`rewards.py:12: right: ValueError: bad, on a completion that was scored before`."""
    head, *lines = (score.error or score.outcome).split("\n")
    places = [line.strip().split(" in ")[0] for line in lines if ".py:" in line and not line.strip().startswith("/")]
    place = "" if not places else f"{places[0 if score.outcome is Outcome.TIMEOUT else -1]}: "
    return f"{place}{score.name}: {head}, on a completion that was scored before"


# ------------------------------------------------------------------------------------------------------- figures


def means(rows: Sequence[Sequence[Score]]) -> dict[str, float]:
    """Function → mean of its values; without those that have none."""
    columns = _columns(rows)
    return {name: mean for name, column in columns.items() if (mean := _mean(column)) is not None}


def _changes(before: Sequence[Sequence[Score]], after: Sequence[Sequence[Score]]) -> list[Change]:
    old, new = _columns(before), _columns(after)
    none: list[float | None] = [None] * len(before)
    return [
        Change(
            name=name,
            before=_mean(old.get(name, [])),
            after=_mean(new.get(name, [])),
            rank=spearman(old.get(name, none), new.get(name, none)),
        )
        for name in dict.fromkeys([*old, *new])
    ]


def _columns(rows: Sequence[Sequence[Score]]) -> dict[str, list[float | None]]:
    names = [score.name for score in rows[0]] if rows else []
    return {name: [row[position].value for row in rows] for position, name in enumerate(names)}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def spearman(x: Sequence[float | None], y: Sequence[float | None]) -> float | None:
    """Spearman's ρ: the correlation of the ranks, equal values sharing their mean rank. Pairs without a value are left
    out; None for fewer than two pairs or where all values of one side are equal."""
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if a is not None and b is not None]
    if len(pairs) < 2:
        return None
    ranks_x, ranks_y = (_ranks(side) for side in zip(*pairs, strict=True))
    middle = (len(pairs) + 1) / 2
    covariance = math.fsum((a - middle) * (b - middle) for a, b in zip(ranks_x, ranks_y, strict=True))
    spread = math.fsum((a - middle) ** 2 for a in ranks_x) * math.fsum((b - middle) ** 2 for b in ranks_y)
    return covariance / math.sqrt(spread) if spread else None


def _ranks(values: Sequence[float]) -> list[float]:
    """From 1; equal values share the mean of their places."""
    order = sorted(values)
    first = {value: place for place, value in reversed(list(enumerate(order, 1)))}
    last = {value: place for place, value in enumerate(order, 1)}
    return [(first[value] + last[value]) / 2 for value in values]
