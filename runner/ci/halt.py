"""Why everything is to stop: Ctrl-C, SIGTERM, or a time budget. The first stop lets steps end, the next doesn't wait.

Handlers only take notes; whoever waits looks at them a few times a second.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

BUDGET, SIGNALLED = 4, 128
"""Exit code of a used-up budget; what is added to a signal's number."""
HURRY_SECONDS = 10
"""After the budget is used up, until the stop doesn't wait for a checkpoint any more."""


class Halt:
    """Stops that were asked for. `budget`: seconds from now until one comes by itself."""

    def __init__(self, budget: float | None = None) -> None:
        self.signals: list[int] = []
        self._budget = budget
        self._began = time.monotonic()
        self._taken = 0

    def take(self) -> int:
        """How many stops have been asked for since the last call."""
        fresh = self._asked - self._taken
        self._taken += fresh
        return fresh

    @property
    def _asked(self) -> int:
        over = 0.0 if self._budget is None else time.monotonic() - self._began - self._budget
        return len(self.signals) + (over > 0) + (over > HURRY_SECONDS)

    @property
    def count(self) -> int:
        """Stops taken so far."""
        return self._taken

    @property
    def reason(self) -> tuple[str, int]:
        """In words, and the exit code it calls for."""
        if self.signals:
            return f"stopped by {signal.Signals(self.signals[0]).name}", SIGNALLED + self.signals[0]
        return f"the time budget of {self._budget:g} s is used up", BUDGET

    @contextmanager
    def installed(self) -> Generator[None]:
        """Takes SIGINT and SIGTERM meanwhile; the third one interrupts this process itself."""
        old = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signals.append(number)
        if len(self.signals) > 2:
            raise KeyboardInterrupt
