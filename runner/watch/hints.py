"""Tells when the folder is worth a look. Only a hint: what is there, `scan` finds out.

The kernel's notifications are fast where they work. A canary file proves that they do; where they don't, where they end
(a folder that is replaced takes its watches along) or overflow, the timer of the loop does the work alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from watchdog import events
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

CANARY_SECONDS = 2.0
_SETTLING = frozenset({"closed", "moved"})
_HEARD: list[type[events.FileSystemEvent]] = [
    events.DirCreatedEvent,
    events.DirDeletedEvent,
    events.DirMovedEvent,
    events.FileClosedEvent,
    events.FileCreatedEvent,
    events.FileDeletedEvent,
    events.FileModifiedEvent,
    events.FileMovedEvent,
]
"""Not that a file was opened or read: three of four would be about what we read ourselves."""


class Hints:
    """`wake` is called when something has changed; `take` gives the files that were closed or moved since."""

    def __init__(self, jobs: Path, wake: Callable[[], None]) -> None:
        self._jobs = jobs
        self._wake = wake
        self._lock = threading.Lock()
        self._closed: set[str] = set()
        self._observer: BaseObserver | None = None
        self._identity: tuple[int, int] | None = None
        self._canary = threading.Event()

    def arm(self) -> bool:
        """Begins, or begins anew when the folder is another one. Whether notifications arrive."""
        identity = _identity(self._jobs)
        if identity is not None and identity == self._identity:
            return self._observer is not None
        self.stop()
        self._identity = identity
        return identity is not None and self._begin()

    def take(self) -> set[str]:
        with self._lock:
            closed, self._closed = self._closed, set()
        return closed

    def stop(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            observer.join(5)

    def _begin(self) -> bool:
        observer = Observer()
        try:
            observer.schedule(_Handler(self), str(self._jobs), recursive=True, event_filter=_HEARD)
            observer.start()
        except (OSError, RuntimeError):  # no watches left (fs.inotify.max_user_watches), or no threads
            return False
        self._observer = observer
        heard = self._hears()
        if not heard:
            self.stop()
        return heard

    def _hears(self) -> bool:
        canary = self._jobs / f".runner-canary-{os.getpid()}"
        self._canary.clear()
        try:
            canary.touch()
            return self._canary.wait(CANARY_SECONDS)
        except OSError:  # a folder that we may only read: events may come, but nothing proves it
            return False
        finally:
            canary.unlink(missing_ok=True)

    def on_event(self, event: events.FileSystemEvent) -> None:
        """In the observer's thread."""
        path = os.fsdecode(event.dest_path or event.src_path)
        if "/.runner-canary-" in path:
            self._canary.set()
            return
        if event.event_type in _SETTLING:
            with self._lock:
                self._closed.add(path)
        self._wake()


class _Handler(events.FileSystemEventHandler):
    def __init__(self, hints: Hints) -> None:
        self._hints = hints

    def on_any_event(self, event: events.FileSystemEvent) -> None:
        self._hints.on_event(event)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino
