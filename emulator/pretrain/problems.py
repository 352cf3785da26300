"""Countdown problems: three numbers from 1 to 9, + - *, each number once, results from 1 to 99.

All of them are enumerated. A stable hash of (sorted numbers, target) holds a third back for evaluation: no text the
model is pre-trained on contains a held-out problem, in any order of its numbers.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

SMALLEST, LARGEST = 1, 9
TARGETS = range(1, 100)


@dataclass(frozen=True, slots=True)
class Problem:
    nums: tuple[int, ...]
    """In the order the prompt shows them."""
    target: int

    @property
    def held_out(self) -> bool:
        key = f"{sorted(self.nums)} {self.target}"
        return hashlib.sha256(key.encode()).digest()[0] < 88

    def shuffled(self, rng: random.Random) -> Problem:
        return Problem(tuple(rng.sample(self.nums, len(self.nums))), self.target)


@dataclass(frozen=True, slots=True)
class Solution:
    """Two operations that use three numbers once each."""

    steps: str
    """The work: `3*5=15, 15+2=17`."""
    expression: str
    """With the parentheses it needs and no others: `3*5+2`."""
    value: int


@cache
def solutions(nums: tuple[int, ...]) -> tuple[Solution, ...]:
    """Every way to combine the numbers without a negative intermediate result; a+b and b+a count once."""
    found: list[Solution] = []
    for first, second, rest in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
        for inner, partial, operator in _combine(str(nums[first]), nums[first], str(nums[second]), nums[second]):
            for outer, value, last in _combine("#", partial, str(nums[rest]), nums[rest]):
                hole = f"({inner})" if _needs_parentheses(operator, last, outer) else inner
                steps = f"{inner}={partial}, {outer.replace('#', str(partial))}={value}"
                found.append(Solution(steps, outer.replace("#", hole), value))
    return tuple(found)


def _combine(left: str, a: int, right: str, b: int) -> Iterator[tuple[str, int, str]]:
    yield f"{left}+{right}", a + b, "+"
    yield f"{left}*{right}", a * b, "*"
    yield (f"{left}-{right}", a - b, "-") if a >= b else (f"{right}-{left}", b - a, "-")


def _needs_parentheses(inner: str, outer: str, expression: str) -> bool:
    if outer == "*":
        return inner != "*"
    return outer == "-" and expression.endswith("#") and inner != "*"


@cache
def problems() -> tuple[Problem, ...]:
    """All of them, numbers sorted, in a fixed order."""
    found: list[Problem] = []
    for nums in itertools.combinations_with_replacement(range(SMALLEST, LARGEST + 1), 3):
        targets = {solution.value for solution in solutions(nums)}
        found += [Problem(nums, target) for target in sorted(targets) if target in TARGETS]
    return tuple(found)


@cache
def solved(problem: Problem) -> tuple[Solution, ...]:
    """The solutions of one problem."""
    return tuple(solution for solution in solutions(problem.nums) if solution.value == problem.target)
