"""Whether a run that was cut off is started again, and after what pause.

Counted are starts that got no further: an attempt that left a new checkpoint begins the count anew. So a run on a
machine that reboots every night ends one day, and one that dies at the same place each time is held soon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.journal.states import Reason
from runner.spec.model import Retry
from runner.store.rows import AttemptRow

RETRIED = (Reason.LOST, Reason.OUT_OF_MEMORY, Reason.ENGINE_FAILED, Reason.DISK_FULL, Reason.ENVIRONMENT)
"""What `retry.on` may name."""
LONGEST_SECONDS = 600.0
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Again:
    """It is started again."""

    pause: float
    """Seconds after the end of the last attempt."""
    detail: str


@dataclass(frozen=True, slots=True)
class GivenUp:
    """It is held until a person resumes it."""

    detail: str


def decide(
    reason: Reason, detail: str, attempts: Sequence[AttemptRow], checkpoint: int | None, policy: Retry
) -> Again | GivenUp | None:
    """None: not a cause that the policy starts again for. `checkpoint`: the step that a next attempt goes on from."""
    if reason.value not in policy.on or policy.max == 0:
        return None
    count = _without_progress(attempts, checkpoint, policy)
    if count > policy.max:
        where = "from the start" if checkpoint is None else f"at step {checkpoint}"
        return GivenUp(f"{reason} {count} times in a row {where}, without a new checkpoint: {detail}")
    pause = min(seconds(policy.backoff) * 2 ** max(0, count - 1), LONGEST_SECONDS)
    return Again(pause, f"starts again in {pause:g} s ({max(1, count)} of {policy.max} without progress): {detail}")


def _without_progress(attempts: Sequence[AttemptRow], checkpoint: int | None, policy: Retry) -> int:
    """How many of the last attempts were cut off and left no checkpoint behind the one that they began from."""
    count, next_start = 0, -1 if checkpoint is None else checkpoint
    for attempt in reversed(attempts):
        start = next_start if attempt.journal_offset == 0 else -1
        start = start if attempt.resumed_step is None else attempt.resumed_step
        if start < next_start or attempt.outcome not in policy.on:
            return count
        count, next_start = count + 1, start
    return count


def seconds(duration: str) -> float:
    """Of a duration as in `limits.max_duration`: `90s`, `30m`, `12h`, `2d`."""
    return int(duration[:-1]) * _UNITS[duration[-1]]
