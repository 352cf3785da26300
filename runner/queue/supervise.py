"""The supervisor of one attempt: `python -m runner.queue.supervise RUN_FOLDER ATTEMPT --lock FD [--pipe FD]`.

Stdlib only, so that it starts at once and stays small. It lives in a session of its own, inherits the run folder's lock
from its starter and shares it with its trainer (the kernel frees it when all are gone, so no live run ever looks dead),
passes a stop on to the trainer, lets no descendant survive, and leaves `exit.json`. With `--pipe`, end of file on that
descriptor (its starter died) is a stop. A warm process forks one instead, and with it the trainer (`supervise`).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol

from runner.journal.failpoints import failpoint

GRACE_SECONDS = float(os.environ.get("RUNNER_GRACE_SECONDS", "120"))
"""From the first stop until the trainer is killed: time for the step to end and a checkpoint to be written."""
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


class Trainer(Protocol):
    """A trainer process, as its supervisor sees it: `subprocess.Popen` is one."""

    @property
    def returncode(self) -> int | None:
        """Exit code, or minus the number of the signal that ended it; None while it runs."""
        ...

    def poll(self) -> int | None: ...
    def wait(self) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("attempt", type=int)
    parser.add_argument("--lock", type=int, required=True)
    parser.add_argument("--pipe", type=int)
    options = parser.parse_args()

    def start(log: IO[bytes]) -> Trainer:
        return subprocess.Popen(
            [sys.executable, "-m", "runner.backends", str(options.folder), str(options.attempt)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[options.lock],
            preexec_fn=die_with_parent(),
        )

    supervise(options.folder, options.attempt, options.pipe, start)
    return 0


def supervise(folder: Path, attempt: int, pipe: int | None, start: Callable[[IO[bytes]], Trainer]) -> None:
    """The whole life of an attempt: `start` makes its trainer, which writes to the log it is given."""
    _become_subreaper()
    home = folder / "attempts" / f"{attempt:04d}"
    home.mkdir(parents=True, exist_ok=True)
    with (home / "trainer.log").open("ab") as log:
        signals = _signal_pipe()
        _write(home / "handle.json", {"pid": os.getpid(), "start_time": start_time(os.getpid()), "boot_id": boot_id()})
        failpoint("supervisor.handle")
        trainer = start(log)
    killed = _wait(trainer, signals, pipe)
    _end_descendants()
    code = trainer.returncode or 0
    failpoint("supervisor.exit")
    _write(
        home / "exit.json",
        {
            "attempt": attempt,
            "exit_code": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "killed": killed,
            "ended_at": time.time(),
        },
    )


def _wait(trainer: Trainer, signals: int, pipe: int | None) -> bool:
    """Until the trainer is gone. True when we killed it: a second stop, or the grace was over."""
    watched = [signals] if pipe is None else [signals, pipe]
    deadline: float | None = None
    while trainer.poll() is None:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select(watched, [], [], left)
        if pipe in ready:
            watched.remove(pipe)
        asked = pipe in ready or (signals in ready and any(n != signal.SIGCHLD for n in os.read(signals, 64)))
        if (asked and deadline is not None) or (deadline is not None and time.monotonic() >= deadline):
            trainer.kill()
            trainer.wait()
            return True
        if asked:
            trainer.terminate()
            deadline = time.monotonic() + GRACE_SECONDS
    return False


def _signal_pipe() -> int:
    """Descriptor that becomes readable with the number of every signal that comes."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda signum, frame: None)
    return read


def _become_subreaper() -> None:
    """Linux: orphans of the trainer (vLLM engines, daemonised rewards) become our children, so that we can end them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> Callable[[], None] | None:
    """Linux: a killed supervisor takes its trainer along, so that no run trains unseen. Runs in the forked child; safe,
    since this process has no other threads."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask_the_kernel() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return ask_the_kernel


def _end_descendants() -> None:
    """SIGKILLs and reaps children until there are none; each dead child hands us its own."""
    while True:
        for pid in _children():
            _kill(pid)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    try:
        return [int(pid) for pid in Path("/proc/self/task", str(os.getpid()), "children").read_text().split()]
    except FileNotFoundError:
        return []


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def start_time(pid: int) -> int | None:
    """The process's start in clock ticks since boot: with the pid, its identity. None where it can't be told."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[19])


def boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        return ""


def _write(path: Path, content: dict[str, object]) -> None:
    part = path.with_suffix(".part")
    with part.open("w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


if __name__ == "__main__":
    sys.exit(main())
