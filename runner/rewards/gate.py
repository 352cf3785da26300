"""What a job adds to its functions' values: bounds (`clip`), and conditions under which they are called (`only_if`).

A gated function is called once the scores it depends on are there and only where its condition holds; else its outcome
is `none`, with the condition as the reason: it does not apply, and adds nothing. A failed call has no value here, even
under `on_error: zero`: a condition over it doesn't hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec.structs import replace

from runner.rewards.bundle import Function
from runner.rewards.contract import Outcome, Score
from runner.spec.gate import Gate, parse_gate


def clipped(score: Score, bounds: Sequence[float] | None) -> Score:
    """The score with its value inside the bounds; the reason tells what it was."""
    if bounds is None or score.value is None:
        return score
    value = min(max(score.value, bounds[0]), bounds[1])
    if value == score.value:
        return score
    told = f"clipped from {score.value:g}"
    return replace(score, value=value, reason=f"{score.reason} ({told})" if score.reason else told)


class Gates:
    """The `only_if` conditions of a version's functions."""

    def __init__(self, functions: Sequence[Function]) -> None:
        self._functions = functions
        self._gates: dict[int, Gate] = {
            i: parse_gate(function.only_if) for i, function in enumerate(functions) if function.only_if
        }
        places = {function.name: i for i, function in enumerate(functions)}
        self._needs = {i: {places[name] for name in gate.names()} for i, gate in self._gates.items()}

    def holds_back(self, function: int) -> bool:
        return function in self._gates

    def after(self, function: int) -> list[int]:
        """Functions whose condition names this one."""
        return [gated for gated, needed in self._needs.items() if function in needed]

    def verdict(self, function: int, row: Sequence[Score | None]) -> Literal[True] | Score | None:
        """Whether a gated function is to be called, from its completion's scores so far: True, or the score it gets
        uncalled; None while a score that decides is missing."""
        needed = [row[i] for i in self._needs[function]]
        if any(score is None for score in needed):
            return None
        values = {score.name: None if score.outcome.is_error else score.value for score in needed if score}
        if self._gates[function].holds(values):
            return True
        told = f"gated: {self._functions[function].only_if}"
        return Score(name=self._functions[function].name, value=None, outcome=Outcome.NONE, reason=told)
