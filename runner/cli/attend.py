"""A run in the foreground: its progress, Ctrl-C, and its end."""

from __future__ import annotations

from collections.abc import Sequence

from runner.api import RunHandle
from runner.ci.halt import Halt
from runner.cli.out import note
from runner.cli.progress import Progress
from runner.cli.text import clean_line
from runner.journal.states import Reason, State, exit_code
from runner.store import queries
from runner.store.rows import RunRow


def attend(handle: RunHandle, after: int = 0) -> tuple[RunRow, int]:
    """Shows a started run's progress until it has ended; gives the run and the exit code its end calls for."""
    halt = Halt()
    with halt.installed():
        follow(handle, halt, after)
        while not halt.count and (why := handle.goes_on()):
            note(clean_line(why))
            follow(handle, halt, _last_event(handle))
    row = handle.row
    return row, ending_code(row, halt.signals)


def _last_event(handle: RunHandle) -> int:
    with handle.reading() as store:
        return queries.last_event(store, handle.id)


def follow(handle: RunHandle, halt: Halt, after: int = 0) -> None:
    """Shows the run's progress until it has ended, and passes on every stop that is asked for meanwhile."""
    row = handle.row
    with handle.reading() as store, Progress(row, store) as progress:
        for event in handle.events(after):
            if event is not None:
                progress.take(event)
            for _ in range(halt.take()):
                handle.stop()
                _tell(halt, progress.step)


def _tell(halt: Halt, step: int) -> None:
    """Says what the stop does."""
    if halt.count == 1:
        why = "" if halt.signals else f"{halt.reason[0]}; "
        note(f"{why}stopping: finishing step {step + 1}, then a checkpoint; Ctrl-C again ends at once")
    else:
        note("ending at once")


def ending_code(row: RunRow, signals: Sequence[int] = ()) -> int:
    """The exit code of a run's end; of the signal's where a signal was the cause."""
    if row.reason is Reason.STOPPED and signals:
        return 128 + signals[0]
    if row.reason is None or row.state in (State.QUEUED, State.STARTING, State.RUNNING):
        return 0
    return exit_code(row.reason)
