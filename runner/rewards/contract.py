"""What a reward call gets and gives: the nouns of this room.

A call that fails is a recorded outcome of that one call. It is never silently a zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec


class Outcome(StrEnum):
    """How one reward call ended."""

    OK = "ok"
    """A finite number."""
    NONE = "none"
    """The function returned None: it does not apply to this completion and adds nothing."""
    NON_NUMERIC = "non_numeric"
    NON_FINITE = "non_finite"
    EXCEPTION = "exception"
    TIMEOUT = "timeout"
    KILLED = "killed"
    """The worker died in the call: signal, exit(), out of memory."""
    BUDGET = "budget"
    """Not called: the function's `budget` is used up. The run stops."""
    INFRASTRUCTURE = "infrastructure"
    """Our fault, not the function's: retried before it is recorded."""

    @property
    def is_error(self) -> bool:
        return self not in (Outcome.OK, Outcome.NONE)


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """What one reward function said of one completion. (A Struct, for a run makes many: a dataclass takes ten times as
    long.)"""

    name: str
    value: float | None
    """None unless the outcome is `ok` (or an error that the job's `on_error: zero` turned into 0.0)."""
    outcome: Outcome
    reason: str | None = None
    """The function's own words, from a returned dict's `reason`."""
    error: str | None = None
    """Type, message and traceback of a failed call, at most 4 kB."""
    output: str | None = None
    """What the call printed, at most 4 kB."""
    seconds: float = 0.0
    metrics: Mapping[str, float] = msgspec.field(default_factory=dict[str, float])
    """What the call logged with `ctx.log_metric`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCall:
    """The completions of one prompt, to be scored by every reward function."""

    prompt: str
    """The exact text the model saw."""
    example: Mapping[str, Any]
    completions: Sequence[str]
    finish: Sequence[str] = field(default_factory=tuple[str, ...])
    """`eos` or `length` for each completion."""
    messages: Sequence[Mapping[str, str]] | None = None
    """The prompt's chat turns, where it has them."""
    tokens: Sequence[Sequence[int] | int] = field(default_factory=tuple[int, ...])
    """Of each completion the token ids, or their number where the ids were not kept."""
