"""Which workers serve which functions, and how.

Most functions share one team of as many workers as may be busy at once. A team of their own have those whose every call
is a process of its own, and each function that waits for others: its calls are many at a time and go out one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from runner.rewards.bundle import Function

Mode = Literal["plain", "isolated", "together"]
"""One call after the other; each call in a fork; several calls of an `async def` on one event loop."""

ASYNC_CONCURRENCY = 64
PREFETCH = 2
"""Messages a worker has at most: the next one waits in the socket while one is worked on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Team:
    """Workers of one kind. A worker joins with its first message and stays."""

    functions: frozenset[int]
    """Positions in the version."""
    mode: Mode
    size: int
    """Workers that may be busy at once."""
    messages: int = PREFETCH
    """Unanswered messages that one worker may have."""
    one_by_one: bool = False
    """A message is one call."""

    @property
    def width(self) -> int:
        """Calls that may run at once."""
        return self.messages if self.mode == "together" else self.size


def teams_of(functions: Sequence[Function], workers: int) -> list[Team]:
    """The teams of a version; every function is in exactly one."""
    alone = [i for i, function in enumerate(functions) if _waits(function)]
    teams = [_own_team(i, functions[i], workers) for i in alone]
    kinds: tuple[tuple[Mode, str], ...] = (("plain", "worker"), ("isolated", "call"))
    for mode, isolation in kinds:
        rest = [i for i, f in enumerate(functions) if i not in alone and f.isolation == isolation]
        if rest:
            teams.append(Team(functions=frozenset(rest), mode=mode, size=workers))
    return teams


def _waits(function: Function) -> bool:
    together = function.is_async and function.isolation == "worker"
    return together or function.concurrency is not None or bool(function.rpm or function.tpm)


def _own_team(index: int, function: Function, workers: int) -> Team:
    """One worker with many calls for `async def`; a process for each call at a time otherwise."""
    own = frozenset({index})
    if function.is_async and function.isolation == "worker":
        width = function.concurrency or ASYNC_CONCURRENCY
        return Team(functions=own, mode="together", size=1, messages=width, one_by_one=True)
    mode: Mode = "isolated" if function.isolation == "call" else "plain"
    return Team(functions=own, mode=mode, size=function.concurrency or workers, messages=1, one_by_one=True)
