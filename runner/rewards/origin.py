"""Where a Python object comes from: its source text, and whether another process could import it."""

from __future__ import annotations

import ast
import inspect
import linecache
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Source(NamedTuple):
    """A definition cut out of its file or notebook cell."""

    text: str
    node: Definition


class NoSource(ValueError):
    """The message says why there is none, and the way out."""


def source_of(value: Any) -> Source:
    """The `def` or `class` of a function (under its decorators) or a class. Raises NoSource."""
    value = inspect.unwrap(value)
    try:
        indented = inspect.getsource(value)
    except (OSError, TypeError):
        indented = _cell_of(value) if inspect.isclass(value) else None
    if indented is None:
        raise NoSource("its source is not available: define it in a file or a notebook cell")
    text = textwrap.dedent(indented).rstrip() + "\n"
    node = _definition(text)
    if node is None or not _is_same(node, value):
        raise NoSource("its source has changed since it was defined: load the module, or run the cell, again")
    if not _says_the_same(text, indented):
        raise NoSource("it is nested and holds a text of several lines: define it at the top level")
    return Source(text, node)


def _definition(text: str) -> Definition | None:
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError):
        return None
    return body[0] if len(body) == 1 and isinstance(body[0], Definition) else None


def _is_same(node: Definition, value: Any) -> bool:
    """Whether the text at the place the object came from still is its text, as far as can be told."""
    if isinstance(node, ast.ClassDef):
        return inspect.isclass(value) and node.name == value.__name__
    args = node.args
    names = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    code = value.__code__
    return node.name == code.co_name and names == list(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])


def _says_the_same(text: str, indented: str) -> bool:
    """Taking out the indentation must not have changed a text that spans lines; a docstring may have."""
    if not indented[0].isspace():
        return True
    nested = ast.parse("if True:\n" + indented).body[0]
    assert isinstance(nested, ast.If)
    return _without_docstrings(nested.body[0]) == _without_docstrings(ast.parse(text).body[0])


def _without_docstrings(tree: ast.AST) -> str:
    for node in ast.walk(tree):
        if isinstance(node, Definition) and ast.get_docstring(node) is not None:
            node.body = [*node.body[1:], ast.Pass()]
    return ast.dump(tree)


def _cell_of(value: type) -> str | None:
    """A class of a notebook: `inspect` finds its functions there, but not the class itself."""
    methods = [getattr(item, "__func__", item) for item in vars(value).values()]
    files = [code.co_filename for item in methods if (code := getattr(item, "__code__", None))]
    for candidates in (files, [name for name, entry in linecache.cache.items() if len(entry) == 4 and not entry[1]]):
        found = {text for file in candidates for text in _classes_in(file, value.__name__)}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def _classes_in(file: str, name: str) -> Iterator[str]:
    lines = linecache.getlines(file)
    try:
        body = ast.parse("".join(lines)).body
    except (SyntaxError, ValueError):
        return
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield "".join(lines[first - 1 : node.end_lineno])


def is_installed(module: str) -> bool:
    """Whether any process of this environment can import the module: Python's own, or in an installed package."""
    top = module.partition(".")[0]
    if top == "__main__":
        return False
    if top in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return bool({"site-packages", "dist-packages"} & set(Path(file).parts)) or top in _installed_packages()


@cache
def _installed_packages() -> frozenset[str]:
    """Importable names of everything installed; finds what lies elsewhere, as editable installs do."""
    return frozenset(packages_distributions())


def home_of(value: Any) -> tuple[str, str] | None:
    """(module, dotted name in it) that an object of an installed module can be imported by."""
    name: str = getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or ""
    own: str = getattr(value, "__module__", None) or ""
    for module in (own.lstrip("_"), own):
        if module and is_installed(module) and _is_at(sys.modules.get(module), name, value):
            return module, name
    if own and not is_installed(own):
        return None
    public = [module for module in list(sys.modules) if not any(part.startswith("_") for part in module.split("."))]
    found = [module for module in public if _is_at(sys.modules.get(module), name, value) and is_installed(module)]
    return (min(found, key=lambda module: (module.count("."), module)), name) if found else None


def _is_at(module: ModuleType | None, name: str, value: Any) -> bool:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found is not None and found is value
