"""Text for terminals: everything a model, a reward or a data set wrote is hostile until it went through here."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

BARS = "▁▂▃▄▅▆▇█"
TAB = "    "


def clean(text: str) -> str:
    """The text with every character that could act on a terminal written out, as `\\x1b`; lines stay lines."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text.replace("\r\n", "\n"))


def clean_line(text: str) -> str:
    """As `clean`, on one line: line ends become `⏎`."""
    return clean(text).replace("\n", "⏎")


def _shown(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    if character == "\t":
        return TAB
    if unicodedata.category(character) == "Zs":
        return " "
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """JSON in plain ASCII: nothing in it can act on a terminal."""
    return json.dumps(value, indent=indent, default=str).replace("\x7f", "\\u007f")


def cut(text: str, width: int) -> str:
    """At most `width` characters, with an ellipsis where something is missing."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def number(value: float | None) -> str:
    """A figure for a table: three digits or so, `–` for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0 or 0.01 <= abs(value) < 100:
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1e}"


def count(value: float) -> str:
    """`950`, `1.2k`, `3.4M`."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return f"{value:.0f}"


def size(n_bytes: int) -> str:
    """`812 B`, `1.3 MB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes} B"


def clock(seconds: float) -> str:
    """`0:14`, `3:05`, `2:10:00`."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def duration(seconds: float) -> str:
    """`0.8 s`, `14 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def ago(seconds: float) -> str:
    """`just now`, `5 min ago`, `3 h ago`, `2 days ago`."""
    for limit, factor, unit in ((60, 0, ""), (3600, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds / factor)} {unit} ago" if factor else "just now"
    return f"{int(seconds / 86400)} days ago"


def plural(n: int, noun: str) -> str:
    """`1 step`, `1,200 steps`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """The course of a series: means over `width` equal parts, from its least to its greatest."""
    if not values:
        return ""
    parts = min(width, len(values))
    edges = [round(i * len(values) / parts) for i in range(parts + 1)]
    means = [math.fsum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, spread = min(means), max(means) - min(means)
    return "".join(BARS[int((mean - low) / spread * (len(BARS) - 1) + 0.5)] if spread else BARS[0] for mean in means)


def arrow(first: float, last: float) -> str:
    """↑ or ↓ where the change is more than rounding, else →."""
    if abs(last - first) <= max(0.005, 0.01 * abs(first)):
        return "→"
    return "↑" if last > first else "↓"


def table(rows: Iterable[Sequence[str]], *, right: Iterable[int] = (), gap: str = "  ") -> list[str]:
    """Rows as lines with aligned columns; `right` are the columns aligned to the right."""
    cells = [list(row) for row in rows]
    if not cells:
        return []
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    flush = set(right)
    return [
        gap.join(
            cell.rjust(width) if i in flush else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def indent(text: str, prefix: str) -> list[str]:
    """The text's lines, each behind the prefix."""
    return [f"{prefix}{line}".rstrip() for line in text.split("\n")]
