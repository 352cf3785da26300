"""One watch for one home. The lock is the kernel's: it can't outlive its holder, and no file has to be cleaned up."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import sys
import time

from runner.journal.folder import read_json
from runner.queue.home import Home


class AnotherWatch(Exception):
    """A watch already looks after this home; the message says which."""


def take_lock(home: Home) -> int:
    """Descriptor that holds the home until this process ends. Raises AnotherWatch."""
    path = home.state / "watch.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise AnotherWatch(_holder(home)) from None
    os.ftruncate(fd, 0)
    me = {
        "pid": os.getpid(),
        "host": os.uname().nodename,
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": _me(),
    }
    os.write(fd, json.dumps(me).encode())
    return fd


def _me() -> str:
    return shlex.join(sys.argv)


def holder(home: Home) -> str | None:
    """Who watches this home now, in words; None when nobody does."""
    path = home.state / "watch.lock"
    if not path.exists():
        return None
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(home)
    finally:
        os.close(fd)
    return None


def _holder(home: Home) -> str:
    known = read_json(home.state / "watch.lock") or {}
    who = f"process {known.get('pid', '?')} on {known.get('host', '?')}, since {known.get('since', '?')}"
    return f"{home.path} is already watched by {who}: {known.get('command', '?')}"
