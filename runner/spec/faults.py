"""pydantic's errors → findings for people: our words, the value, the way out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import ValidationError

from runner.spec import hints
from runner.spec.document import DataPath, Place, dotted, finding
from runner.spec.errors import Finding
from runner.spec.schema import fields, node_at
from runner.spec.section import Problem


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing the model refused."""

    path: DataPath
    """Where in the data; a missing field counts as a path of its own."""
    kind: str
    """pydantic's error type; `key` for the name of a field, `semantic` for one of our own checks."""
    value: Any
    context: Mapping[str, Any]


def faults(error: ValidationError, tree: Any) -> list[Fault]:
    """Each path once; of a union's branches the one that got furthest."""
    found: dict[DataPath, Fault] = {}
    for details in error.errors(include_url=False):
        for fault in _of(details, tree):
            found.setdefault(fault.path, fault)
    return [fault for fault in found.values() if not (fault.kind == "literal_error" and _has_deeper(fault, found))]


def _has_deeper(fault: Fault, found: Mapping[DataPath, Fault]) -> bool:
    return any(len(path) > len(fault.path) and path[: len(fault.path)] == fault.path for path in found)


def _of(details: Any, tree: Any) -> Iterator[Fault]:
    path, kind = _path(details["loc"], details["type"], tree), str(details["type"])
    context: Mapping[str, Any] = details.get("ctx", {})
    if kind == "semantic":
        for problem in context["problems"]:
            inner = tuple(int(part) if part.isdigit() else part for part in problem.field.split(".") if part)
            yield Fault((*path, *inner), kind, None, {"problem": problem})
        return
    yield Fault(path, "key" if details["loc"][-1:] == ("[key]",) else kind, details["input"], context)


def _path(location: tuple[str | int, ...], kind: str, tree: Any) -> DataPath:
    """pydantic's location without the names of union branches and key markers."""
    path: list[str | int] = []
    for part in location:
        if _has(tree, part):
            tree = tree[part]
        elif not (kind == "missing" and part == location[-1]):
            continue
        path.append(part)
    return tuple(path)


def _has(tree: Any, part: str | int) -> bool:
    return part in tree if isinstance(tree, dict) else isinstance(tree, list) and part in range(len(cast(Any, tree)))


def describe(fault: Fault, place: Place, *, is_shape: bool) -> Finding:
    """`is_shape`: whether the JSON Schema refuses the same place; if not, the code is `semantic`."""
    code, message, hint = _said(fault)
    return finding(place, code if is_shape else "semantic", message, hint, dotted(fault.path))


def _said(fault: Fault) -> tuple[str, str, str]:
    match fault.kind:
        case "semantic":
            problem: Problem = fault.context["problem"]
            return "semantic", problem.message, problem.hint
        case "extra_forbidden":
            return "unknown-field", "no such field", hints.for_unknown(fault.path, fault.value)
        case "missing":
            return "missing-field", "is required", _example(fault.path)
        case "literal_error":
            return _choice(fault)
        case "key":
            return "pattern", f"{_shown(fault.path[-1])} can't be a name", "letters, digits, `_`, `.`, `-`; at most 64"
        case "string_pattern_mismatch":
            return "pattern", f"{_shown(fault.value)} is not of the right form", _form(fault.path)
        case "too_short" | "string_too_short":
            return "range", "is empty", _example(fault.path)
        case "finite_number":
            return "range", f"{_shown(fault.value)} is not finite", "write a finite number"
        case kind if kind in _BOUNDS:
            words, key = _BOUNDS[kind]
            return "range", f"{_shown(fault.value)} is out of range", f"must be {words} {fault.context[key]:g}"
        case _:
            message = f"{_shown(fault.value)} is not {_wanted(fault.path)}"
            return "type", message, hints.for_type(fault.path, fault.value)


_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}

_EXAMPLES = {
    "model": "for example `model: Qwen/Qwen2.5-1.5B-Instruct`",
    "dataset": "for example `dataset: {path: data.jsonl}`",
    "path": "for example `path: data.jsonl`",
    "rewards": "for example `rewards: {correct: {fn: rewards.py:correct}}`",
    "fn": "for example `fn: rewards.py:correct`",
    "metric": "for example `metric: reward`",
}


def _example(path: DataPath) -> str:
    return _EXAMPLES.get(str(path[-1]), f"`runner explain {dotted(path)}` tells what belongs here")


def _form(path: DataPath) -> str:
    forms = {
        "fn": "write `file.py:function`, as `rewards.py:correct`",
        "backoff": "write a number and a unit, as `10s` or `2m`",
        "max_duration": "write a number and a unit, as `90s`, `30m`, `12h` or `2d`",
        "name": "letters, digits, `_`, `.`, `-`, beginning with a letter or digit; at most 64",
    }
    return forms.get(str(path[-1]), _example(path))


def _choice(fault: Fault) -> tuple[str, str, str]:
    node = node_at(fault.path) or {}
    known = [str(choice) for choice in node.get("enum", [node.get("const")]) if choice is not None]
    known += [branch["const"] for branch in node.get("anyOf", ()) if "const" in branch]
    near = hints.nearest(str(fault.value), known)
    hint = f"did you mean `{near}`?" if near else f"one of: {', '.join(known)}"
    if "anyOf" in node:
        hint += "; or a list"
    return "choice", f"{_shown(fault.value)} is not a choice here", hint


_WANTED = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a section",
}


def _wanted(path: DataPath) -> str:
    node = node_at(path) or {}
    return "a section" if fields(node) else _WANTED.get(str(node.get("type")), "what belongs here")


def _shown(value: Any, width: int = 60) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= width else text[: width - 1] + "…"
