"""What is wrong with a job, each thing once, with its place and the way out."""

from __future__ import annotations

from collections.abc import Sequence
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
    severity: Literal["error", "warning"] = "error"


class JobError(ValueError):
    """A job that can't be run as written: every error at once."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(f"{f.file}:{f.line}: {f.message} {f.hint}".strip() for f in self.findings))
