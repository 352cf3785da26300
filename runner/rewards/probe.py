"""Tries every act that the sandbox forbids, confined as a reward worker is, and says on stdout what was refused.

Executed by its path: `probe.py POLICY TRIALS`, both JSON. What counts is what happens, not what a call returned or what
the system says of itself. Standard library only.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import mmap
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict


class Trials(TypedDict):
    """What to try the acts on."""

    runner: int
    """Pid of a process outside."""
    outside: str
    """A readable file, in a writable folder, that the policy doesn't open."""
    port: int
    """A TCP port at 127.0.0.1 that somebody listens on, and that the policy doesn't open."""
    abstract: str
    """Name of an abstract Unix socket that somebody listens on."""


def main(policy: Any, trials: Trials) -> None:
    confine = _sibling("confine")
    missing = {**confine.confine(policy), **confine.confine_worker(), **confine.forbid_processes(policy)}
    done = {name: _tried(acts) for name, acts in acts_of(policy, trials).items()}
    json.dump({"missing": missing, "done": done}, sys.stdout)


def acts_of(policy: Any, trials: Trials) -> dict[str, dict[str, Callable[[], object]]]:
    """Guarantee → what must not succeed, in words."""
    runner = trials["runner"]
    sockets: dict[str, Callable[[], object]] = {
        "reach a TCP port": lambda: _connect(trials["port"]),
        "reach an abstract socket": lambda: _abstract(trials["abstract"]),
    }
    if not policy["network"]:
        sockets["send a UDP datagram"] = lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(
            ("127.0.0.1", 9)
        )
    return {
        "memory": {f"take {policy['memory'] >> 20} MiB": lambda: mmap.mmap(-1, policy["memory"] + (64 << 20), PRIVATE)},
        "network": {} if policy["network"] is True else sockets,
        "filesystem": {
            "read a file outside": lambda: Path(trials["outside"]).read_bytes(),
            "write a file outside": lambda: Path(trials["outside"] + ".new").write_bytes(b""),
        },
        "secrets": {
            "read the runner's environment": lambda: Path(f"/proc/{runner}/environ").read_bytes(),
            "open the runner's memory": lambda: Path(f"/proc/{runner}/mem").open("rb"),
        },
        "signals": {"signal the runner": lambda: os.kill(runner, 0)},
        "subprocess": {} if policy["subprocess"] else {"fork": _fork, "exec": _exec},
    }


PRIVATE = getattr(mmap, "MAP_PRIVATE", 2) | getattr(mmap, "MAP_ANONYMOUS", 0x20)


def _tried(acts: dict[str, Callable[[], object]]) -> list[str]:
    """The acts that were not refused."""
    succeeded: list[str] = []
    for name, act in acts.items():
        try:
            act()
        except (OSError, MemoryError):
            continue
        succeeded.append(name)
    return succeeded


def _connect(port: int) -> None:
    with socket.socket() as tried:
        tried.connect(("127.0.0.1", port))


def _abstract(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as tried:
        tried.connect("\0" + name)


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)
    os.wait()


def _exec() -> None:
    """By a call that can't succeed: refused, it says EPERM, not ENOENT."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.execve(b"/nowhere", None, None)
    if ctypes.get_errno() == 1:
        raise PermissionError


def _sibling(name: str) -> Any:
    package, here = "reward_process", Path(__file__).parent
    spec = importlib.util.spec_from_file_location(package, here / "__init__.py", submodule_search_locations=[str(here)])
    assert spec is not None
    sys.modules[package] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{package}.{name}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), json.loads(sys.argv[2]))
