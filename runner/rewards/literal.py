"""A plain value → the Python expression that makes it again."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any, cast

LINE = 100
"""Characters from which on a collection is written with one item a line."""
MAX_CHARACTERS = 256 << 10

Refer = Callable[[Any], str | None]
"""Gives an expression for a value that has to be referred to (a function, a class, a module); None if there is none."""


class Unwritable(ValueError):
    """A value, or a part of it, that no short expression makes; the message says what it is."""


def literal(value: Any, refer: Refer) -> str:
    """An expression equal to `value`: numbers, text, bytes, True, False, None, tuples, lists, dicts and sets of them,
    compiled regular expressions, paths, and what `refer` knows. Raises Unwritable."""
    try:
        text = _write(value, refer)
    except RecursionError:
        raise Unwritable("a value that contains itself") from None
    if len(text) > MAX_CHARACTERS:
        raise Unwritable(f"a {type(value).__name__} of {len(text) // 1024} KiB")
    return text


def _write(value: Any, refer: Refer) -> str:
    kind = cast("type[Any]", type(value))
    if kind in (bool, int, str, bytes) or value is None or value is Ellipsis:
        return repr(value)
    if kind is float:
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if kind is complex:
        return f"complex({_write(value.real, refer)}, {_write(value.imag, refer)})"
    if kind in (tuple, list, set, frozenset, dict):
        return _container(kind, value, refer)
    if kind is re.Pattern:
        return _pattern(value, refer)
    if isinstance(value, PurePath):
        return f"{refer(kind if kind.__name__.startswith('Pure') else Path)}({str(value)!r})"
    found = refer(value)
    if found is None:
        raise Unwritable(_a(kind.__name__))
    return found


def _container(kind: type[Any], value: Any, refer: Refer) -> str:
    if kind is dict:
        pairs: Mapping[Any, Any] = value
        return _enclosed("{", [f"{_write(key, refer)}: {_write(item, refer)}" for key, item in pairs.items()], "}")
    elements: Iterable[Any] = value
    items = [_write(item, refer) for item in elements]
    if kind is list:
        return _enclosed("[", items, "]")
    if kind is tuple:
        return f"({items[0]},)" if len(items) == 1 else _enclosed("(", items, ")")
    items.sort()  # a set has no order of its own
    inner = _enclosed("{", items, "}") if items else ""
    return f"frozenset({inner})" if kind is frozenset else inner or "set()"


def _enclosed(begin: str, items: list[str], end: str) -> str:
    line = begin + ", ".join(items) + end
    if len(line) <= LINE and "\n" not in line:
        return line
    indented = (item.replace("\n", "\n    ") for item in items)  # repr leaves no line break inside a text
    return begin + "".join(f"\n    {item}," for item in indented) + "\n" + end


def _pattern(value: re.Pattern[Any], refer: Refer) -> str:
    module = refer(re)
    implied = re.UNICODE if isinstance(value.pattern, str) else re.NOFLAG
    flags = " | ".join(f"{module}.{flag.name}" for flag in re.RegexFlag(value.flags) & ~implied)
    return f"{module}.compile({value.pattern!r}{', ' if flags else ''}{flags})"


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
