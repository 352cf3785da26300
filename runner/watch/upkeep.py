"""The database: sound at the start, copied while the watch runs."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

from runner.queue.home import Home
from runner.store.errors import DamagedDatabase
from runner.store.rebuild import Rebuilt, is_due, rebuild
from runner.store.schema import DatabaseError, copy_database
from runner.store.store import Store
from runner.watch.log import Log

KEPT = 3


def open_sound(home: Home) -> tuple[Store, Rebuilt | None]:
    """The home's store; one that is damaged or lost, or whose restoration was cut off, is made anew from the run
    folders, and what is left of it moved aside. No other process of this home may be writing. Raises StoreError for a
    file that isn't ours, or a newer runner's."""
    if not is_due(home.database):
        with suppress(DamagedDatabase):
            store = home.open()
            if store.is_sound():
                return store, None
            store.close()
    made = rebuild(home.database)
    return home.open(), made


class Backups:
    """Copies of the database in `.runner/backups/`, made in a thread: a large one takes a while."""

    def __init__(self, home: Home, every: float, log: Log) -> None:
        self._home, self._every, self._log = home, every, log
        self._folder = home.state / "backups"
        self._thread: threading.Thread | None = None
        newest = max((path.stat().st_mtime for path in self._copies()), default=0.0)
        self._due_at = time.monotonic() + max(0.0, newest + every - time.time())

    def look(self) -> None:
        """Begins a copy when it is time."""
        if time.monotonic() >= self._due_at and (self._thread is None or not self._thread.is_alive()):
            self._due_at = time.monotonic() + self._every
            self._thread = threading.Thread(target=self._copy, name="backup", daemon=True)
            self._thread.start()

    def _copies(self) -> list[Path]:
        return sorted(self._folder.glob("runner-*.db"))

    def _copy(self) -> None:
        target = self._folder / f"runner-{time.strftime('%Y%m%d-%H%M%S')}.db"
        part = target.with_suffix(".part")
        try:
            self._folder.mkdir(exist_ok=True)
            part.unlink(missing_ok=True)
            copy_database(self._home.database, part)
            part.replace(target)
            for old in self._copies()[:-KEPT]:
                old.unlink(missing_ok=True)
        except (OSError, DatabaseError) as error:
            part.unlink(missing_ok=True)
            self._log("backup_failed", level="warning", error=f"{type(error).__name__}: {error}")
