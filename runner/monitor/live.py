"""What changes: one thread takes in what live runs record, and the event stream says which runs have news.

The stream carries no contents, only ids and the cursor of what happened (`events.id`): pages ask for what they show.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import HTTPException, Query, Request
from fastapi.responses import StreamingResponse

from runner.monitor.reading import BIG, api_router
from runner.monitor.settings import Settings
from runner.queue.home import Home
from runner.queue.local import conclude
from runner.store import queries
from runner.store.errors import StoreError
from runner.store.schema import DatabaseError
from runner.store.store import Store

POLL_SECONDS = 0.5
EVENT_SECONDS = 1.0
"""At least this long between two events of a stream."""
PING_SECONDS = 15.0
STREAMS = 64
"""At once; a page that gets none asks again from time to time."""


class Live:
    """The thread that takes in, and what it has seen."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="monitor-live", daemon=True)
        self._inode = 0
        self._store: Store | None = None
        self.seq = 0
        """Id of the latest event."""
        self.version = 0
        """Counts up whenever anything in the database has changed."""
        self._runs: set[str] = set()
        self.gone: dict[str, int] = {}
        """Run that was deleted → `version` since when it is. No event tells of it."""
        self.problems: dict[str, str] = {}
        """Run → why its records can't be taken in."""
        self.streams = 0

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends the thread and, soon, every stream."""
        self._closing.set()

    @property
    def closing(self) -> bool:
        return self._closing.is_set()

    def _work(self) -> None:
        seen = -1
        while not self._closing.is_set():
            try:
                seen = self._look(seen)
            except (StoreError, DatabaseError, OSError) as error:  # the database is missing, busy, or being replaced
                self.problems = {"database": str(error)}
                self._drop()
            self._closing.wait(POLL_SECONDS)
        self._drop()

    def _look(self, seen: int) -> int:
        """Takes in what live runs recorded, and notes whether the database has changed; gives its version."""
        store = self._open()
        if queries.live(store):
            self.problems = take_in(self._settings.home)
        elif "database" in self.problems:
            self.problems = {}
        version: int = store.db.conn.execute("PRAGMA data_version").fetchone()[0]
        if version != seen:
            self.seq = queries.last_event(store)
            runs = queries.ids(store)
            self.gone |= dict.fromkeys(self._runs - runs, self.version + 1)
            self._runs = runs
            self.version += 1
        return version

    def _open(self) -> Store:
        """The connection that is kept, for SQLite counts changes for each; a new one when the file was replaced."""
        path = self._settings.database
        inode = path.stat().st_ino if path.exists() else 0
        if self._store is None or inode != self._inode:
            self._drop()
            self._store, self._inode = Store.read_only(path), inode
            self.version += 1
        return self._store

    def _drop(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def changed(self, after: int) -> list[str]:
        """Runs with events behind this cursor; every run (`*`) where the database was made anew since."""
        if after > self.seq:
            return ["*"]
        with Store.read_only(self._settings.database) as store:
            return queries.changed_runs(store, after)


def take_in(path: Path) -> dict[str, str]:
    """Takes what live runs have recorded, and the end of those whose processes are gone, into the database. Gives, for
    the runs that this fails for, why: one broken journal does not keep the others out."""
    home = Home(path)
    problems: dict[str, str] = {}
    with home.open() as store:
        for run_id in queries.live(store):
            try:
                conclude(home, store, run_id)
            except StoreError as error:
                problems[run_id] = str(error)
    return problems


router = api_router()


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Endless."}},
)
async def events(request: Request, after: Annotated[int | None, Query(ge=0, lt=BIG)] = None) -> StreamingResponse:
    """`event: changed` with `{"runs": [ids], "seq": n}` whenever something happened, at most once a second; its id is
    the cursor, so a stream that broke goes on with Last-Event-ID (or `after`). `*` among the runs stands for all."""
    live: Live = request.app.state.live
    if live.streams >= STREAMS:
        raise HTTPException(503, f"There are {STREAMS} streams already; close some tabs.")
    last = request.headers.get("last-event-id", "")
    start = int(last) if last.isascii() and last.isdecimal() and len(last) < 16 else after
    return StreamingResponse(_stream(live, start), media_type="text/event-stream")


async def _stream(live: Live, after: int | None) -> AsyncIterator[str]:
    live.streams += 1
    try:
        cursor, seen, said = (live.seq if after is None else after), live.version, time.monotonic()
        yield ": the monitor says which runs have news\n\n"
        while not live.closing:
            seq = live.seq
            if live.version != seen or seq != cursor:
                gone = [run for run, version in live.gone.items() if version > seen]
                seen = live.version
                runs = [*await asyncio.to_thread(_changed, live, cursor), *gone]
                cursor, said = seq, time.monotonic()
                yield f"event: changed\nid: {seq}\ndata: {json.dumps({'runs': runs, 'seq': seq})}\n\n"
                await asyncio.sleep(EVENT_SECONDS)
            elif time.monotonic() - said > PING_SECONDS:
                said = time.monotonic()
                yield ": ping\n\n"
            else:
                await asyncio.sleep(0.1)
    finally:
        live.streams -= 1


def _changed(live: Live, after: int) -> list[str]:
    try:
        return live.changed(after)
    except (StoreError, DatabaseError):
        return ["*"]
