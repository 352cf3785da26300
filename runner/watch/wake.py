"""What the loop sleeps on: a pipe that signals, ended children and file notifications write to.

(An `Event` would not do: setting one from a signal handler can meet its own lock.)
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from types import FrameType


class Wake:
    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        for end in (self._read, self._write):
            os.set_blocking(end, False)
        self.stops: list[int] = []
        """SIGINTs and SIGTERMs so far."""

    def set(self) -> None:
        """From any thread."""
        with suppress(BlockingIOError):  # full: it will wake all the same
            os.write(self._write, b"\0")

    def wait(self, seconds: float) -> bool:
        """Whether it was woken before the time was over."""
        ready, _, _ = select.select([self._read], [], [], max(0.0, seconds))
        if ready:
            with suppress(BlockingIOError):
                while os.read(self._read, 4096):
                    pass
        return bool(ready)

    def catch_signals(self) -> None:
        """SIGINT and SIGTERM are counted instead of ending the process. Main thread only."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self.stops.append(number)
