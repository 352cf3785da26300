"""Many calls of one `async def` reward at the same time, in one worker.

Each call has its own deadline here, for one that waits can be cancelled. The host has its own for the whole: if nothing
is heard for longer than a call may take, something blocks the loop; then it kills, and tries the calls one by one.
Standard library only; imported by workers that need it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextvars import ContextVar
from typing import Any, Protocol

from .answering import Answer, Loaded, Prepared, judge, prepare, raised
from .texts import TEXT_LIMIT, clip, describe

KEPT = 16 * TEXT_LIMIT
"""Characters of a call's output that are kept until it ends."""

_output: ContextVar[list[str]] = ContextVar("output")


class Connection(Protocol):
    fd: int

    def read(self) -> Any: ...
    def write(self, value: Any) -> None: ...


class Router:
    """Python's `stdout` and `stderr`: what a call prints goes to that call."""

    encoding = "utf-8"

    def __init__(self, fallback: Any) -> None:
        self._fallback = fallback

    def write(self, text: str) -> int:
        parts = _output.get(None)
        if parts is None:
            self._fallback.write(text)
        elif sum(map(len, parts)) < KEPT:
            parts.append(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fallback, name)


class Lane:
    """The rest of a worker's life."""

    def __init__(self, connection: Connection, loaded: Loaded, seed: str) -> None:
        self._connection, self._loaded, self._seed = connection, loaded, seed
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, first: dict[str, Any]) -> None:
        """Starts the calls of this message and of every further one at once; until the host is gone."""
        sys.stdout, sys.stderr = Router(sys.stdout), Router(sys.stderr)
        asyncio.run(self._serve(first))

    async def _serve(self, first: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()

        def read() -> None:
            request = self._connection.read()
            if request is None:
                over.set_result(None)
            else:
                self._start(request)

        loop.add_reader(self._connection.fd, read)
        self._start(first)
        await over

    def _start(self, request: dict[str, Any]) -> None:
        for number, index, position in request["calls"]:
            task = asyncio.create_task(self._make(request, number, index, position))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _make(self, request: dict[str, Any], number: int, index: int, position: int) -> None:
        parts: list[str] = []
        _output.set(parts)
        prepared = prepare(self._loaded, request, index, position, self._seed)
        started = time.perf_counter()
        answer = await _call(prepared, self._loaded.timeouts[index], self._loaded.folder)
        seconds = time.perf_counter() - started
        output = clip("".join(parts)) if parts else None
        self._connection.write([number, *answer, output, seconds, *prepared.extras()])


async def _call(prepared: Prepared, limit: float, folder: str) -> Answer:
    deadline = asyncio.timeout(limit)
    try:
        async with deadline:
            return judge(await prepared.function(*prepared.arguments, **prepared.keywords))
    except BaseException as error:  # exit(), Ctrl-C and the like are this call's failure, not the worker's
        if deadline.expired() and isinstance(error, TimeoutError):
            where = describe(error.__cause__ or error, folder).partition("\n")[2]
            return Answer("timeout", error=f"no result after {limit:g} s" + (f"\n{where}" if where else ""))
        return raised(error, folder)
