"""The starter's end of a warm process: trainers come by fork, with their imports already paid for.

One process (`runner.ci.server`) imports what trainers need and forks a supervisor for each run that is asked for; that
supervisor and its trainer are the same code as those of a run started alone, and keep the same promises. Only emulated
runs are started so: nothing here may fork a process that has touched a GPU.

This module imports next to nothing: the sooner the warm process is started, the more of its imports are done beside the
starter's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from runner.journal.folder import RunFolder
    from runner.queue.local import Started


PEEK_BYTES = 1 << 16
"""Of a file that may be a job, looked at before it is read as one."""


class WarmLost(Exception):
    """The warm process is gone; nothing can be started from it any more."""


class Child:
    """A process that the warm process forked. It holds the write end of `life` while it lives. Threads share it."""

    def __init__(self, pid: int, life: int) -> None:
        self.pid = pid
        self.said = b""
        self.life = life
        """Descriptor that is readable when the process has said something, and from its end on."""
        weakref.finalize(self, os.close, life)  # not before: a selector may still watch it
        self._lock = threading.Lock()
        self._ended = False

    def poll(self) -> int | None:
        """0 once the process is gone, else None. (How a run ended stands in its folder.)"""
        with self._lock:
            while not self._ended and select.select([self.life], [], [], 0)[0]:
                block = os.read(self.life, 65536)
                self.said += block
                self._ended = not block
        return 0 if self._ended else None

    def wait(self) -> int:
        while self.poll() is None:
            select.select([self.life], [], [])
        return 0

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def may_train_lm(names: Sequence[str]) -> bool:
    """Whether one of these jobs or folders of jobs is of the language model, by a look at the files' text. A guess,
    made before anything is imported that reads YAML: where it is wrong, a run begins half a second later."""
    try:
        files = [file for name in names for path in (Path(name), Path("jobs", name)) for file in _job_files(path)]
        return any(b"replay" not in _beginning(file) for file in files)
    except OSError:
        return False


def _job_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [*path.glob("job.*"), *path.glob("*/job.*")] if path.is_dir() else []


def _beginning(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(PEEK_BYTES)


@dataclass(slots=True)
class Warm:
    """A running warm process. A context manager; runs that were started from it outlive it only if it is killed."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    used: bool = False
    """Whether anything was started from it."""

    @classmethod
    def start(cls, *, for_lm: bool = False) -> Self:
        """Returns at once; the imports go on beside whatever the caller does next. `for_lm`: those of the language
        model, too; else they wait for the first run that needs them."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "runner.ci.server", str(theirs.fileno()), *(["lm"] if for_lm else [])],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )
        return cls(process, ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the warm process. Runs that still go on are stopped by their pipe, when this process ends."""
        self.control.close()
        if not self.used:
            self.process.terminate()  # it may be in the midst of its imports
        self.process.wait()

    def spawn(self, folder: RunFolder, run_id: str, attempt: int, lock: int) -> Started:
        """A supervisor for the attempt, as `runner.queue.local.Spawn`. Raises WarmLost."""
        from runner.queue.local import Started

        read, write = os.pipe()
        request = {"do": "train", "folder": str(folder.path.resolve()), "attempt": attempt, "run": run_id}
        try:
            child = self._fork(request, [lock, read])
        except BaseException:
            os.close(write)
            raise
        finally:
            os.close(read)
        return Started(run_id=run_id, supervisor=child, pipe=write)

    def probe(self, folder: Path) -> Child:
        """A process that tries the run's rewards and its resume again; it says a `Probed` as JSON. Raises WarmLost."""
        return self._fork({"do": "probe", "folder": str(folder.resolve())}, [])

    def _fork(self, request: dict[str, Any], descriptors: list[int]) -> Child:
        read, write = os.pipe()
        self.used = True
        try:
            socket.send_fds(self.control, [json.dumps(request).encode()], [*descriptors, write])
            answer = self.control.recv(64)
        except OSError:
            answer = b""
        finally:
            os.close(write)
        if not answer:
            os.close(read)
            raise WarmLost("the process that starts the trainers is gone (killed, or the machine is short of memory)")
        return Child(int(answer), read)
