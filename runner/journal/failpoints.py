"""Named places where tests make the process fail, to see what it leaves behind and that the next one goes on.

`RUNNER_FAILPOINTS=store.claim:kill:/tmp/hit,…`: what is armed there acts once, however many processes pass, and leaves
the file named last as the proof. Unset, a failpoint is one look into an empty dict.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

Name = Literal[
    "store.submit",
    "store.claim",
    "store.transition",
    "store.ingest",
    "store.committed",
    "store.rebuilt",
    "queue.claimed",
    "queue.spawned",
    "queue.concluded",
    "supervisor.handle",
    "supervisor.exit",
    "journal.append",
    "checkpoint.files",
    "checkpoint.manifest",
    "checkpoint.named",
    "watch.look",
    "watch.accepted",
    "watch.status",
]
NAMES: tuple[Name, ...] = get_args(Name)
ACTIONS = ("kill", "raise", "ENOSPC")


class Failpoint(Exception):
    """Raised where `raise` is armed: stands for any defect."""


def failpoint(name: Name) -> None:
    """Does what is armed there: SIGKILL of this process, Failpoint, or OSError as on a full disk."""
    if name in _ARMED:
        _act(name, *_ARMED[name])


def _armed(text: str) -> Mapping[str, tuple[str, str]]:
    parts = [item.split(":", 2) for item in text.split(",") if item]
    return MappingProxyType({name: (action, proof) for name, action, proof in parts})


def _act(name: str, action: str, proof: str) -> None:
    try:
        os.close(os.open(proof, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "ENOSPC":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    raise Failpoint(f"failpoint {name}")


_ARMED = _armed(os.environ.get("RUNNER_FAILPOINTS", ""))
