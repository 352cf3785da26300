"""Who may talk to the monitor: a secret in a file, and what is made from it.

The secret itself goes into the `Authorization` header of a CLI. A browser gets a link with a key that works once, and
for it a cookie. Keys and cookie are signed with the secret: any process that may read the file can make a link for the
running monitor, and a restarted monitor still knows its browsers.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
import time
from pathlib import Path

SECRET_BYTES = 32
LINK_SECONDS = 24 * 3600


def token_file(state: Path) -> Path:
    """Where a home's secret lies; `state` is its `.runner/`."""
    return state / "monitor.token"


def read_or_make(state: Path) -> str:
    """The home's secret, made on first use, readable for its owner only."""
    path = token_file(state)
    state.mkdir(parents=True, exist_ok=True)
    if not (state / ".gitignore").exists():
        (state / ".gitignore").write_text("*\n")
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        path.chmod(0o600)
        if known := path.read_text().strip():
            return known
        path.unlink()
        return read_or_make(state)
    with os.fdopen(fd, "w") as file:
        token = secrets.token_urlsafe(SECRET_BYTES)
        file.write(token + "\n")
    return token


def cookie_value(token: str) -> str:
    """What a browser that came by a link keeps."""
    return _sign(token, "cookie")


def link(url: str, token: str | None) -> str:
    """An address that opens the pages of the monitor at `url`; with a token it works once."""
    return url if token is None else f"{url}?token={link_key(token)}"


def link_key(token: str) -> str:
    """A key for one visit, within a day."""
    issued = f"{time.time_ns()}.{secrets.token_urlsafe(16)}"
    return f"{issued}.{_sign(token, f'link {issued}')}"


class Links:
    """The keys that were used. Keys from before this monitor began are refused: it can't know whether they were."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._began = time.time_ns()
        self._used: set[str] = set()
        self._lock = threading.Lock()

    def redeem(self, key: str) -> bool:
        """Whether the key is good. It isn't again."""
        issued, _, signature = key.rpartition(".")
        if not issued.isascii() or not equal(signature, _sign(self._token, f"link {issued}")):
            return False
        at = int(issued.partition(".")[0])
        if not self._began <= at or time.time_ns() - at > LINK_SECONDS * 1_000_000_000:
            return False
        with self._lock:
            fresh = issued not in self._used
            self._used.add(issued)
        return fresh


def equal(given: str, right: str) -> bool:
    """Compares without telling by its time how much was right."""
    return hmac.compare_digest(given.encode(errors="replace"), right.encode())


def _sign(token: str, text: str) -> str:
    return hmac.new(token.encode(), text.encode(errors="replace"), hashlib.sha256).hexdigest()
