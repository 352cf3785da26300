"""The nouns of a verdict. Every row has one; the whole passes when every row does; the exit code is of the same rows.

So a table that shows a failure never ends with 0, and one that shows none always does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Literal

from runner.api import RunHandle
from runner.ci.halt import BUDGET, SIGNALLED
from runner.journal.events import Difference
from runner.spec.errors import Finding
from runner.store.rows import OutcomeRow, RunRow

OK, FAILED, INVALID, EXPECT, UNFIT = 0, 1, 2, 3, 5
GRAVEST_FIRST = (INVALID, UNFIT, FAILED, BUDGET, EXPECT)

AS_ASKED = "as asked"
"""Name of the rows that say what an emulated run does otherwise than a real one."""

Series = Sequence[tuple[int, float]]


class Verdict(StrEnum):
    """Of one row."""

    PASSED = "passed"
    WARNED = "warned"
    """Worth a look; does not fail the job unless `--strict` is given."""
    FAILED = "failed"
    ERROR = "error"
    """It could not be judged: a metric that was never recorded, a job that can't be read."""
    SKIPPED = "skipped"
    """It does not apply, or was not tried; what was found says why."""

    @property
    def is_failure(self) -> bool:
        return self in (Verdict.FAILED, Verdict.ERROR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One row of the table."""

    name: str
    verdict: Verdict
    found: str
    """The value, or what happened, in a few words."""
    asked: str = ""
    """The bound, for an expectation."""
    tier: Literal["contract", "learning"] = "contract"
    field: str = ""
    """What it is about in the job, as `emulator.expect.0`."""
    place: Finding | None = None
    """Where that stands in the job's file."""
    code: int = FAILED
    """Exit code that a failure of this row calls for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run of a job in this command, as it ended."""

    seed: int
    handle: RunHandle
    run: RunRow
    metrics: Mapping[str, Series]
    outcomes: Sequence[OutcomeRow]
    ranges: Mapping[str, tuple[float, float]]
    """Reward → least and greatest value in training; none where it never gave a number."""
    failures: Mapping[str, str]
    """Reward → the first error of a call, with its lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One job of this command, with its verdict."""

    job: str
    path: Path
    checks: Sequence[Check]
    trials: Sequence[Trial] = ()
    differences: Sequence[Difference] = ()
    findings: Sequence[Finding] = ()
    """What is wrong with a job that could not be started."""
    seconds: float = 0.0

    @property
    def code(self) -> int:
        """Exit code: the gravest of the failed rows'; 0 when every row passes."""
        return gravest(check.code for check in self.checks if check.verdict.is_failure)

    @property
    def passed(self) -> bool:
        return self.code == OK

    def count(self, verdict: Verdict) -> int:
        return sum(check.verdict is verdict for check in self.checks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a person wants of the checks."""

    seeds: Sequence[int] | None = None
    """A run for each; None: one, with the job's own."""
    checks: bool = True
    """Call the rewards again, and try a resume."""
    strict: bool = False
    """Warnings fail, too."""
    overrides: Sequence[str] = field(default_factory=tuple[str, ...])
    home: Path | None = None


def gravest(codes: Iterable[int]) -> int:
    """The code that stands for all: a signal's first, then `GRAVEST_FIRST`."""
    failed = {code for code in codes if code}
    signalled = [code for code in failed if code > SIGNALLED]
    if signalled:
        return min(signalled)
    return next((code for code in GRAVEST_FIRST if code in failed), max(failed, default=OK))


def strictly(checks: Iterable[Check]) -> list[Check]:
    """The rows with every warning a failure."""
    return [
        replace(check, verdict=Verdict.FAILED) if check.verdict is Verdict.WARNED else check for check in checks
    ]  # fmt: skip
