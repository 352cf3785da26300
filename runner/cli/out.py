"""Where the verbs write: results to stdout, everything else to stderr; colours on a terminal only.

A line is given as parts, each a text or a (text, style) pair. Texts are data: no markup is read from them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cache
from typing import IO, TYPE_CHECKING, Any

from runner.cli.text import to_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Part = str | tuple[str, str]
Line = Sequence[Part]


def say(*parts: Part) -> None:
    """One line of the result, to stdout."""
    _write(sys.stdout, parts)


def note(*parts: Part) -> None:
    """One line for the person watching, to stderr."""
    _write(sys.stderr, parts)


def say_json(value: Any, *, indent: int | None = 2) -> None:
    """One JSON value, to stdout. With `indent=None` on one line."""
    print(to_json(value, indent=indent))


def is_terminal(stream: IO[str]) -> bool:
    """Whether a person looks at it: rich's own test calls CI a terminal when FORCE_COLOR is set."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def console(stream: IO[str]) -> Console:
    """The rich console of a terminal."""
    return _console(stream is sys.stderr)


@cache
def _console(stderr: bool) -> Console:
    from rich.console import Console  # 60 ms, and only terminals need it

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def styled(parts: Sequence[Part]) -> Text:
    """The parts as one rich text."""
    from rich.text import Text

    return Text.assemble(*parts)


def plain(parts: Sequence[Part]) -> str:
    return "".join(part if isinstance(part, str) else part[0] for part in parts)


def _write(stream: IO[str], parts: Sequence[Part]) -> None:
    if is_terminal(stream):
        console(stream).print(styled(parts))
    else:
        print(plain(parts), file=stream)
