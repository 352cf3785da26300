"""Reward functions written for other trainers: how each style is called, checked and adapted.

A style is a generated source in the bundle that stands between the worker and the user's function, which stays as it
is. So versions, isolation and deadlines know nothing of styles. Nothing is guessed: a style is written in the job.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

Style = Literal["runner", "trl", "predibase", "verl"]
Batch = Literal["one", "group"]

ADAPTERS = Path(__file__).with_name("adapters")
FORMS: Mapping[Style, str] = {
    "runner": "def {name}(prompt, completion, example)",
    "predibase": "def {name}(prompt, completion, example)",
    "trl": "def {name}(completions, **kwargs)",
    "verl": "def {name}(data_source, solution_str, ground_truth, extra_info=None)",
}
PASSED: Mapping[Style, tuple[str, ...]] = {
    "trl": ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"),
    "verl": ("data_source", "solution_str", "ground_truth", "extra_info"),
}
"""Keywords that a style always passes; TRL passes every column as well."""
NEVER_COLUMNS = ("prompt", "completion")
"""Names that TRL keeps to itself."""

STUB = '''"""Written by the runner: calls `{file}:{attribute}` in the style of {style}."""

import {module} as _module
from {adapter} import {maker}

{attribute} = {maker}(_module.{attribute})
setup = getattr(_module, "setup", None)
'''


def stub(file: str, attribute: str, module: str, style: Style, batch: Batch) -> tuple[str, dict[str, bytes]]:
    """The generated file through which the function is called, and that file with what it imports."""
    adapter = f"_runner_{style}"
    maker = "adapted" if style != "trl" else "one_by_one" if batch == "one" else "whole_groups"
    path = f"_{style}_{batch}_{module.replace('.', '_')}_{attribute}.py"
    text = STUB.format(file=file, attribute=attribute, style=style, module=module, adapter=adapter, maker=maker)
    return path, {path: text.encode(), f"{adapter}.py": (ADAPTERS / f"{style}.py").read_bytes()}


def keyword_problem(args: ast.arguments, style: Style) -> str | None:
    """What keeps a function from being called by the style's keywords; None if nothing does."""
    passed = PASSED[style]
    named = [*args.args, *args.kwonlyargs]
    names = [arg.arg for arg in named]
    optional = _optional(args)
    if args.posonlyargs:
        return f"takes {args.posonlyargs[0].arg} by position only, and {_title(style)} passes everything by name"
    wanted = [name for name in names if name not in optional and name not in passed]
    lacking = [name for name in wanted if style != "trl" or name in NEVER_COLUMNS]
    if lacking:
        return f"needs `{lacking[0]}`, which {_title(style)} does not pass"
    missing = [name for name in passed if name not in names]
    if args.kwarg is None and (missing or style == "trl"):
        more = "every column" if style == "trl" else f"`{missing[0]}`"
        return f"takes no **kwargs, and {_title(style)} passes {more} by name"
    return None


def columns_by_keyword(args: ast.arguments) -> list[tuple[str, bool]]:
    """Columns that a TRL function takes as parameters, each with whether it has to be there."""
    optional = _optional(args)
    names = [arg.arg for arg in (*args.args, *args.kwonlyargs)]
    return [(name, name not in optional) for name in names if name not in PASSED["trl"]]


def _optional(args: ast.arguments) -> set[str]:
    """Parameters with a default."""
    defaults = args.args[len(args.args) - len(args.defaults) :]
    keywords = [arg for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True) if default is not None]
    return {arg.arg for arg in (*defaults, *keywords)}


def _title(style: Style) -> str:
    return {"trl": "TRL"}.get(style, style)
