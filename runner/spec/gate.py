"""`only_if`: a condition over other rewards of the same completion, as `format > 0 and length <= 200`.

Read from Python's syntax tree, never evaluated as code: comparisons of a reward's name with a number, joined by `and`
and `or`. A name that is no Python name is written in quotes: `"format-v2" > 0`.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from runner.spec.section import Problem

MAX_CHARACTERS = 1000
OPERATORS: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
FORM = "write comparisons as `format > 0`, joined by `and` and `or`"


class GateError(ValueError):
    """The text is no such condition; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """`name op number`."""

    name: str
    compare: Callable[[float, float], bool]
    number: float

    def holds(self, values: Mapping[str, float | None]) -> bool:
        """Whether it holds; not where the reward has no value."""
        value = values.get(self.name)
        return value is not None and self.compare(value, self.number)

    def names(self) -> Iterator[str]:
        yield self.name


@dataclass(frozen=True, slots=True)
class Joined:
    """Conditions joined by `and` or by `or`."""

    how: Literal["and", "or"]
    parts: tuple[Gate, ...]

    def holds(self, values: Mapping[str, float | None]) -> bool:
        join = all if self.how == "and" else any
        return join(part.holds(values) for part in self.parts)

    def names(self) -> Iterator[str]:
        for part in self.parts:
            yield from part.names()


Gate = Comparison | Joined


def parse_gate(text: str) -> Gate:
    """The condition in the text. Raises GateError."""
    if len(text) > MAX_CHARACTERS:
        raise GateError(f"has more than {MAX_CHARACTERS} characters")
    try:
        return _gate(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        raise error if isinstance(error, GateError) else GateError(f"`{text}` is no condition") from None


def _gate(node: ast.expr) -> Gate:
    match node:
        case ast.BoolOp(op=ast.And()):
            return Joined("and", tuple(_gate(part) for part in node.values))
        case ast.BoolOp(op=ast.Or()):
            return Joined("or", tuple(_gate(part) for part in node.values))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in OPERATORS:
            return Comparison(_name(left), OPERATORS[type(op)], _number(right))
        case _:
            raise GateError(f"`{ast.unparse(node)}` is no comparison of a reward with a number")


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Constant(value=str(name)):
            return name
        case _:
            raise GateError(f"`{ast.unparse(node)}` is no name of a reward (in quotes where it is no Python name)")


def _number(node: ast.expr) -> float:
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if value is not True:
            return -float(value)
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return float(value)
        case _:
            raise GateError(f"`{ast.unparse(node)}` is no number")


def find_cycle(needs: Mapping[str, set[str]]) -> list[str]:
    """Names that wait for each other in a circle, the first one again at the end; empty when there are none."""
    done: set[str] = set()
    for start in needs:
        path = [start]
        if found := _walk(needs, path, done):
            return found
    return []


def _walk(needs: Mapping[str, set[str]], path: list[str], done: set[str]) -> list[str]:
    for name in sorted(needs.get(path[-1], ())):
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done and (found := _walk(needs, [*path, name], done)):
            return found
    done.add(path[-1])
    return []


def gate_problems(conditions: Mapping[str, str | None]) -> list[Problem]:
    """What is wrong with the conditions of a job's rewards, by reward: their form, their names, circles of them."""
    needs: dict[str, set[str]] = {}
    problems: list[Problem] = []
    for name, text in conditions.items():
        try:
            needs[name] = set(parse_gate(text).names()) if text is not None else set()
        except GateError as error:
            problems.append(Problem(f"{name}.only_if", str(error), FORM))
    for name, needed in needs.items():
        problems += [_unknown(name, other, list(conditions)) for other in sorted(needed - set(conditions))]
    cycle = [] if problems else find_cycle(needs)
    if cycle:
        told = f"waits for itself: {' → '.join(cycle)}" if len(cycle) > 2 else "waits for its own value"
        problems.append(Problem(f"{cycle[0]}.only_if", told, "name rewards that don't depend on it"))
    return problems


def _unknown(name: str, other: str, rewards: list[str]) -> Problem:
    near = get_close_matches(other, rewards, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"rewards: {', '.join(rewards)}"
    return Problem(f"{name}.only_if", f"there is no reward named `{other}`", hint)
