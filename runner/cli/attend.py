"""A run in the foreground: its progress, Ctrl-C, and its end."""

from __future__ import annotations

import signal
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from types import FrameType

from runner.api import RunHandle
from runner.cli.out import note
from runner.cli.progress import Progress
from runner.journal.states import Reason, State, exit_code
from runner.store.rows import RunRow


class Stopper:
    """Turns Ctrl-C and SIGTERM into stops of one run: the first lets the step end, the second doesn't wait."""

    def __init__(self, handle: RunHandle) -> None:
        self._handle = handle
        self.signals: list[int] = []
        self._told = 0

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signals.append(number)
        if len(self.signals) > 2:
            raise KeyboardInterrupt
        self._handle.stop()

    def tell(self, step: int) -> None:
        """Says once what each stop does; not in the handler, which may interrupt a write."""
        if len(self.signals) <= self._told:
            return
        self._told = len(self.signals)
        if self._told == 1:
            note(f"stopping: finishing step {step + 1}, then a checkpoint; Ctrl-C again ends at once")
        else:
            note("ending at once")

    @contextmanager
    def installed(self) -> Generator[None]:
        old = {number: signal.signal(number, self.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def attend(handle: RunHandle, after: int = 0) -> tuple[RunRow, int]:
    """Shows a started run's progress until it has ended; gives the run and the exit code its end calls for."""
    stopper = Stopper(handle)
    row = handle.row
    with stopper.installed(), handle.reading() as store, Progress(row, store) as progress:
        for event in handle.events(after):
            if event is not None:
                progress.take(event)
            stopper.tell(progress.step)
    row = handle.row
    return row, ending_code(row, stopper.signals)


def ending_code(row: RunRow, signals: Sequence[int] = ()) -> int:
    """The exit code of a run's end; of the signal's where a signal was the cause."""
    if row.reason is Reason.STOPPED and signals:
        return 128 + signals[0]
    if row.reason is None or row.state in (State.QUEUED, State.STARTING, State.RUNNING):
        return 0
    return exit_code(row.reason)
