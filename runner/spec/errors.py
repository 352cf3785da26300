"""What is wrong with a job, each thing once, with its place and the way out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing a person should know about a job."""

    code: str
    """Stable, for tests and search: `unknown-field`, `type`, `range`, `semantic`, `reward-import`, …"""
    message: str
    """What is wrong, with the value, in one sentence."""
    hint: str = ""
    """The way out."""
    field: str = ""
    """Dotted path in the job, as `grpo.num_generations`."""
    file: str = ""
    line: int = 0
    """From 1; 0 where there is none."""
    column: int = 0
    """In characters, from 1; 0 where there is none."""
    excerpt: str = ""
    """The source line the place is in."""
    severity: Literal["error", "warning"] = "error"


class JobError(ValueError):
    """A job that can't be run as written: every error at once."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(_line(finding) for finding in self.findings))


def render(findings: Iterable[Finding]) -> str:
    """The findings as plain text for a terminal or a log: place, message, source line, caret, way out."""
    return "\n".join(_render(finding) for finding in findings)


def _line(finding: Finding) -> str:
    place = ":".join(str(part) for part in (finding.file, finding.line) if part)
    said = [part for part in (place, finding.field, finding.message) if part]
    return _printable(": ".join(said) + (f"; {finding.hint}" if finding.hint else ""))


def _render(finding: Finding) -> str:
    place = ":".join(str(part) for part in (finding.file, finding.line, finding.column) if part)
    head = f"{place}: " if place else ""
    what = f"{finding.severity}[{finding.code}] {finding.field}".rstrip()
    lines = [_printable(f"{head}{what}: {finding.message}")]
    if finding.excerpt:
        shown, caret = _window(finding.excerpt, max(finding.column, 1) - 1)
        lines += [f"{finding.line:>5} |   {shown}", f"      |   {' ' * caret}^ {_printable(finding.hint)}".rstrip()]
    elif finding.hint:
        lines.append(f"        {_printable(finding.hint)}")
    return "\n".join(lines)


def _printable(text: str) -> str:
    """Control and direction characters from a job file or a data set must not reach the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] if c.isascii() else f"\\u{ord(c):04x}" for c in text)


def _window(line: str, caret: int, width: int = 100) -> tuple[str, int]:
    """At most `width` characters of the line around the caret, one column per character; the caret's new place."""
    start = max(0, caret - width + 20)
    shown = "".join(c if c.isprintable() else " " if c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in line)
    cut = shown[start : start + width].rstrip()
    return ("…" + cut[1:] if start else cut), caret - start
