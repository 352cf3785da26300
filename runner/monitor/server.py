"""The running monitor: a bound socket, and uvicorn in a thread behind it.

For whoever has a process of its own, as `runner ui` and `runner watch`: `Monitor(settings, host=…, port=…)` serves at
once from threads of that process and installs no signal handlers, `link()` is what to show, `close()` ends it within
seconds. Of several monitors of one home each has its own port and all take the same token; where a port is taken,
`serves(settings, port)` tells whether by a monitor of this home, whose pages then show the same.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

import uvicorn

from runner.monitor import app, bundle
from runner.monitor.settings import Settings, is_loopback
from runner.monitor.token import link

PATIENCE_SECONDS = 10.0


class AddressTaken(Exception):
    """The port is in use, or the address is not this machine's."""


class Monitor:
    """Serves from the moment it is made until `close`. Usable as a context manager. Raises AddressTaken."""

    def __init__(self, settings: Settings, *, host: str = "127.0.0.1", port: int = 0, dist: Path = bundle.DIST) -> None:
        self.settings = settings
        self._socket = _bind(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._lock = _take_lock(settings, self.port)
        guarded, inner = app.build(settings, dist=dist)
        self.app = inner
        self._server = uvicorn.Server(
            uvicorn.Config(
                guarded,
                http="h11",
                ws="none",
                access_log=False,  # a link's key would be in it
                log_level="warning",
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=3,
            )
        )
        self._thread = threading.Thread(target=self._serve, name="monitor", daemon=True)
        self._thread.start()
        self._wait_until_it_serves()
        self.url = url_of(host if is_loopback(host) else sorted(settings.allowed_hosts)[0], self.port)

    def link(self) -> str:
        """An address that opens the pages; with a token it works once."""
        return link(self.url, self.settings.token)

    def close(self) -> None:
        """Ends the streams, answers what is being asked, and stops."""
        self.app.state.live.close()
        self._server.should_exit = True
        self._thread.join(PATIENCE_SECONDS)
        self._socket.close()
        if self._lock is not None:
            os.close(self._lock)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])

    def _wait_until_it_serves(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._server.started and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)


def url_of(host: str, port: int) -> str:
    """Where a browser finds the monitor."""
    return f"http://[{host}]:{port}/" if ":" in host and not host.startswith("[") else f"http://{host}:{port}/"


def serves(settings: Settings, port: int) -> bool:
    """Whether a monitor of this home listens at the port. Asks its lock: who listens there could be anybody, and is
    not to be shown the token."""
    if not _lock_file(settings, port).exists():
        return False
    lock = _take_lock(settings, port)
    if lock is not None:
        os.close(lock)
    return lock is None


def _lock_file(settings: Settings, port: int) -> Path:
    return settings.state / f"monitor-{port}.lock"


def _take_lock(settings: Settings, port: int) -> int | None:
    """Held while a monitor serves; None when another holds it, or where the home has no `.runner/`."""
    if not settings.state.is_dir():
        return None
    fd = os.open(_lock_file(settings, port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _bind(host: str, port: int) -> socket.socket:
    plain = host.strip("[]")
    family = socket.AF_INET6 if ":" in plain else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's delay off, which would add 40 ms to every answer.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((plain, port))
    except OSError as error:
        bound.close()
        way_out = "`--port 0` takes a free one" if error.errno == errno.EADDRINUSE else "`--host` names an address"
        raise AddressTaken(f"can't listen on {host}:{port}: {error.strerror}; {way_out}") from error
    return bound
