"""`grader:`, OpenAI's grader JSON in place of a function: what of it is understood, checked without running anything.

`string_check`, `python`, `score_model` (with a `base_url` of ours: the endpoint) and `multi`, as OpenAI's API has them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, cast

from runner.spec.section import Problem

TEMPLATE = re.compile(r"\{\{\s*(.*?)\s*\}\}", re.DOTALL)
VARIABLE = re.compile(r"(item|sample)((?:\.\w+|\[\d+\])+)")
FUNCTIONS = frozenset({"min", "max", "abs", "floor", "ceil", "exp", "sqrt", "log"})
"""What a `multi` grader's formula may call, besides + - * / and parentheses."""

Grader = Mapping[str, Any]

FIELDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "string_check": (("input", "reference", "operation"), ("name",)),
    "python": (("source",), ("name", "image_tag")),
    "score_model": (("model", "input", "base_url"), ("name", "range", "sampling_params")),
    "multi": (("graders", "calculate_output"), ("name",)),
}
"""Type → fields it must and may have. (`name` and `image_tag` have no meaning here.)"""
NOT_UNDERSTOOD = ("text_similarity", "label_model", "score_model_v2")
OPERATIONS = ("eq", "ne", "like", "ilike")


def grader_problems(grader: Grader, field: str = "grader", *, nested: bool = False) -> list[Problem]:
    """Everything that is wrong with a grader; `field` is where it stands."""
    kind = grader.get("type")
    if not isinstance(kind, str) or kind not in FIELDS or (nested and kind == "multi"):
        known = [name for name in FIELDS if not (nested and name == "multi")]
        hint = "write it as a function, or as a `python` grader" if kind in NOT_UNDERSTOOD else _one_of(kind, known)
        return [Problem(f"{field}.type", f"{kind!r} is no type of grader that is known here", hint)]
    needed, possible = FIELDS[kind]
    problems = [
        Problem(f"{field}.{name}", "is required", HINTS.get(name, f"a `{kind}` grader has one"))
        for name in needed
        if name not in grader
    ]
    problems += [
        Problem(f"{field}.{name}", "no such field", _one_of(name, (*needed, *possible)))
        for name in grader
        if name not in ("type", *needed, *possible)
    ]
    return problems or [
        Problem(f"{field}.{p.field}" if p.field else field, p.message, p.hint) for p in _CHECKS[kind](grader)
    ]


HINTS = {"base_url": "where the model is served, as `http://localhost:8000/v1` (OpenAI's chat completions)"}


def columns_in(grader: Grader) -> list[str]:
    """The dataset columns that its templates read."""
    texts = list(_texts(grader))
    found = [
        match[2]
        for text in texts
        for inner in TEMPLATE.findall(text)
        if (match := VARIABLE.fullmatch(inner)) and match[1] == "item"
    ]
    return list(dict.fromkeys(re.split(r"[.\[\]]", path)[1] for path in found))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for name, inner in cast("Grader", value).items() if name != "source" for text in _texts(inner))
    elif isinstance(value, list):
        yield from (text for inner in cast("list[Any]", value) for text in _texts(inner))


def _one_of(given: Any, known: Any) -> str:
    near = get_close_matches(str(given), list(known), n=1)
    return f"did you mean `{near[0]}`?" if near else f"one of: {', '.join(known)}"


def _string_check(grader: Grader) -> Iterator[Problem]:
    if grader["operation"] not in OPERATIONS:
        yield Problem(
            "operation", f"{grader['operation']!r} is not a choice here", _one_of(grader["operation"], OPERATIONS)
        )
    for name in ("input", "reference"):
        yield from _template(name, grader[name])


def _template(name: str, value: Any) -> Iterator[Problem]:
    if not isinstance(value, str):
        yield Problem(name, "is not text", "write text, with templates as `{{ item.answer }}`")
        return
    for inner in TEMPLATE.findall(value):
        if not VARIABLE.fullmatch(inner):
            hint = "write `{{ item.<column> }}` or `{{ sample.output_text }}`"
            yield Problem(name, f"`{{{{ {inner} }}}}` is no template", hint)


def _python(grader: Grader) -> Iterator[Problem]:
    form = "a grader is `def grade(sample, item)`"
    try:
        body = ast.parse(grader["source"]).body if isinstance(grader["source"], str) else []
    except (SyntaxError, ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 0)
        yield Problem("source", f"is no valid Python: line {line}: {getattr(error, 'msg', error)}", form)
        return
    defined = [
        node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == "grade"
    ]
    if not defined:
        yield Problem("source", "defines no function `grade`", form)
    elif len(defined[-1].args.args) < 2 and not defined[-1].args.vararg:
        yield Problem("source", f"`grade` takes {len(defined[-1].args.args)} parameter(s)", form)


def _score_model(grader: Grader) -> Iterator[Problem]:
    if not str(grader["base_url"]).startswith(("http://", "https://")):
        yield Problem("base_url", f"{grader['base_url']!r} is no web address", HINTS["base_url"])
    messages = grader["input"]
    if not isinstance(messages, list) or not messages:
        yield Problem("input", "is no list of messages", 'write `[{role: user, content: "…"}]`')
        return
    for number, message in enumerate(cast("list[Any]", messages)):
        text = message_text(message)
        if text is None:
            yield Problem(f"input.{number}", "is no message of text", 'write `{role: user, content: "…"}`')
        else:
            yield from _template(f"input.{number}.content", text)
    bounds = grader.get("range", [0, 1])
    if not (isinstance(bounds, list) and len(cast("list[Any]", bounds)) == 2 and bounds[0] < bounds[1]):
        yield Problem("range", f"{bounds!r} is no range", "write two numbers, the lesser first")


def message_text(message: Any) -> str | None:
    """The text of a message: plain, or as `{type: input_text, text: …}`. None where it is neither."""
    fields = cast("dict[str, Any]", message) if isinstance(message, dict) else {}
    content: Any = fields.get("content")
    if isinstance(content, dict):
        content = cast("dict[str, Any]", content).get("text")
    return content if isinstance(content, str) and isinstance(fields.get("role"), str) else None


def _multi(grader: Grader) -> Iterator[Problem]:
    graders = grader["graders"]
    if not isinstance(graders, dict) or not graders:
        yield Problem("graders", "is no section of graders by name", "write `{correct: {type: …}}`")
        return
    named = cast("dict[str, Any]", graders)
    for name, inner in named.items():
        if not isinstance(inner, dict) or not str(name).isidentifier():
            yield Problem(f"graders.{name}", "is no grader under a plain name", "write `correct: {type: …}`")
        else:
            yield from grader_problems(cast("Grader", inner), f"graders.{name}", nested=True)
    yield from _formula(grader["calculate_output"], named)


def _formula(text: Any, graders: Mapping[str, Any]) -> Iterator[Problem]:
    form = f"write + - * / over the graders' names, and {', '.join(sorted(FUNCTIONS))}"
    try:
        tree = ast.parse(str(text).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError):
        yield Problem("calculate_output", f"`{text}` is no formula", form)
        return
    for part in _refused(tree):
        yield Problem("calculate_output", f"`{ast.unparse(part)}` can't stand in a formula", form)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - FUNCTIONS
    for name in sorted(names - set(graders)):
        yield Problem("calculate_output", f"there is no grader named `{name}`", _one_of(name, list(graders)))


def _refused(node: ast.expr) -> Iterator[ast.expr]:
    """Parts of a formula that are none of what the graders' arithmetic knows."""
    match node:
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div(), right=right):
            yield from (*_refused(left), *_refused(right))
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            yield from _refused(operand)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            yield from (part for argument in arguments for part in _refused(argument))
        case ast.Name() | ast.Constant(value=int() | float()):
            return
        case _:
            yield node


_CHECKS: Mapping[str, Callable[[Grader], Iterator[Problem]]] = {
    "string_check": _string_check,
    "python": _python,
    "score_model": _score_model,
    "multi": _multi,
}
