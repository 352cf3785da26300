"""What routes share: one read-only connection for each request, the run in the path, bounds of numbers.

What a request sees does not change under it: it reads in one transaction.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.params import Depends as Dependency

from runner.monitor.models import Problem
from runner.monitor.settings import Settings
from runner.store.rows import RunRow
from runner.store.store import Store

QUERY_SECONDS = 10.0
"""After which a request gives up, so that no question, however clumsy, holds the monitor."""
QUERY_STEPS = 100_000
"""Of SQLite's virtual machine, between two looks at the clock."""
BIG = 1 << 53
"""Above every number that we count with; SQLite and JavaScript hold all below."""

Limit = Annotated[int, Query(ge=1, le=500)]
Count = Annotated[int | None, Query(ge=0, lt=BIG)]


PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "No token."},
    404: {"model": Problem, "description": "There is no such run, completion or version (any more)."},
    422: {"model": Problem, "description": "A parameter is not what it has to be."},
    503: {"model": Problem, "description": "The database is missing, of another version, or busy."},
}


def api_router(dependencies: Sequence[Dependency] = ()) -> APIRouter:
    """Routes under `/api/v1`."""
    return APIRouter(prefix="/api/v1", responses=PROBLEMS, dependencies=dependencies)


def settings_of(request: Request) -> Settings:
    """What this monitor was started with."""
    found: Settings = request.app.state.settings
    return found


def _store(request: Request) -> Generator[Store]:
    deadline = time.monotonic() + QUERY_SECONDS
    with Store.read_only(settings_of(request).database) as store:
        store.db.conn.set_progress_handler(lambda: time.monotonic() > deadline, QUERY_STEPS)
        store.db.conn.execute("BEGIN")
        yield store


Reading = Annotated[Store, Depends(_store)]


def _run(run_id: Annotated[str, Path(max_length=300)], store: Reading) -> RunRow:
    return store.run(run_id)


OfRun = Annotated[RunRow, Depends(_run)]
"""The run in the path, by its exact id. Answers 404 when there is none (any more)."""
