"""A reward worker: answers one call after the other over a socket, until it is killed.

Standard library only and nothing of ours but its siblings: it runs in the user's interpreter as a fork of the zygote.
It keeps no deadline, for a signal that raises is not seen by a loop in C and is swallowed by `except:`; the host kills.
Each answer is where the host sees it as soon as it is there: the first call without one is the one that is running.

A call in isolation is a fork of its own, which is gone with all it changed when it has answered: what it does to the
interpreter can't reach another call's score.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import io
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from types import FrameType
from typing import Any, NoReturn

from . import confine
from .answering import Answer, Loaded, SeedOnImport, call, prepare
from .channel import Answers, Connection, frame_of, packed, write_all
from .confine import Policy
from .texts import OUTPUT_STARTS, failure, read_capture

SAFE_FD = 300
"""Our own descriptors lie above the numbers that a careless `os.closerange(3, 256)` closes."""
MAX_FRAME = 256 << 10
"""Bytes of an answer."""
MAX_CALLS = 10_000
"""Calls after which a worker makes room for a fresh one."""
FULL = 0.8
"""Share of the memory limit above which it does so too."""
LOOK_SECONDS = 0.001
"""Time between two looks at it: nothing fills much memory faster."""


class Capture:
    """Points fds 1 and 2, and Python's streams, to one file that the host holds too: it survives the worker."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._out = self._err = _stream(1)
        self.restore()

    def restore(self) -> None:
        """Points the descriptors to the file, which is empty then."""
        os.dup2(self._fd, 1)
        os.dup2(self._fd, 2)
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, OUTPUT_STARTS, os.SEEK_SET)
        self._is_clean = True

    def begin(self) -> None:
        """Undoes what the last call did to the streams."""
        if not self._is_clean:
            self.restore()
        if self._is_closed():
            self._out, self._err = _stream(1), _stream(2)
        sys.stdout, sys.stderr = self._out, self._err

    def text(self) -> str | None:
        """What the call has printed."""
        self._is_clean = self._is_untouched()
        return None if self._is_clean else read_capture(self._fd, start=OUTPUT_STARTS)

    def _is_untouched(self) -> bool:
        """Whether both descriptors are at the place in their file that ours is at before anything is printed."""
        try:
            return os.lseek(1, 0, os.SEEK_CUR) == OUTPUT_STARTS == os.lseek(2, 0, os.SEEK_CUR)
        except OSError:
            return False

    def _is_closed(self) -> bool:
        try:
            return self._out.closed or self._err.closed
        except ValueError:  # detached
            return True


def _stream(fd: int) -> io.TextIOWrapper:
    raw: Any = open(fd, "wb", buffering=0, closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)


class Worker:
    """The worker's life, after the fork. The descriptors are ours alone: socket, output, stack, draft."""

    def __init__(self, descriptors: Sequence[int], folder: str, seed: str, policy: Policy) -> None:
        socket, output, self._stack, self._draft = (_moved(fd) for fd in descriptors)
        self._connection = Connection(socket)
        self._capture = Capture(output)
        self._folder, self._seed, self._policy = folder, seed, policy
        self._child = self._calls = 0
        self._looked = 0.0

    def run(self, load: Callable[[], Loaded]) -> None:
        """Until the host is gone, or there is a reason to make room for a fresh worker."""
        self._capture.begin()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        signal.signal(signal.SIGINT, signal.default_int_handler)
        faulthandler.enable(file=self._stack, all_threads=False)
        self._answer_usr1_with_stack()
        os.register_at_fork(after_in_child=self._connection.close)
        confine.confine_worker()
        if (loaded := self._ready(load)) is not None:
            if "random" not in sys.modules:
                sys.meta_path.insert(0, SeedOnImport())
            self._serve(loaded)

    def _ready(self, load: Callable[[], Loaded]) -> Loaded | None:
        """Imports if that wasn't done before the fork, calls every `setup()` and says hello: `{}`, or what failed."""
        try:
            loaded = load()
            for setup in loaded.setups:
                setup()
        except BaseException as error:
            self._connection.write(failure(error, self._folder))
            return None
        self._connection.write({})
        return loaded

    def _serve(self, loaded: Loaded) -> None:
        """The host gives a worker messages of one mode only."""
        request = self._connection.read()
        mode = request and request["mode"]
        if mode == "isolated":
            os.close(self._draft)  # a call in isolation must not reach another's answer
            self._answer(loaded, request, self._fork, None)
        elif mode:
            confine.forbid_processes(self._policy)
        if mode == "together":
            from .lane import Lane  # few need it

            Lane(self._connection, loaded, self._seed).run(request)
        elif mode == "plain":
            self._answer(loaded, request, self._make, Answers(self._connection, self._draft))

    def _answer(self, loaded: Loaded, request: Any, make: Callable[..., bytes], answers: Answers | None) -> None:
        """Message after message, until there is a reason to end. Without `answers` each goes out by itself."""
        me = os.getpid()
        say = answers.add if answers else self._connection.send
        is_full = False
        while request is not None:
            self._capture.restore()
            if answers:
                answers.begin()
            for number, index, position in request["calls"]:
                self._capture.begin()
                frame = make(loaded, request, number, index, position)
                if os.getpid() != me:
                    return  # a child that the reward forked and let return
                say(frame)
                self._calls += 1
                if is_full := self._is_full():
                    break  # before a call pays for what earlier ones kept
            # A fresh worker is cheap; what lives on here could harm the next call.
            is_last = is_full or self._calls >= MAX_CALLS or _has_leftovers()
            if answers and (is_last or not self._connection.has_more()):
                answers.send()
            request = None if is_last else self._connection.read()

    def _make(self, loaded: Loaded, request: dict[str, Any], number: int, index: int, position: int) -> bytes:
        """Makes a call and gives the frame that answers it."""
        prepared = prepare(loaded, request, index, position, self._seed)
        started = time.perf_counter()
        answer = call(prepared, loaded.folder)
        seconds = time.perf_counter() - started
        output = self._capture.text()
        if answer.outcome == "ok" and answer.reason is None and output is None and prepared.ctx is None:
            return packed(f'[{number},"ok",{answer.value!r},null,null,null,{seconds:.9f}]')  # as nearly always
        return frame_of([number, *answer, output, seconds, *prepared.extras()])

    # ------------------------------------------------------------------------------------------------ in isolation

    def _fork(self, loaded: Loaded, request: dict[str, Any], number: int, index: int, position: int) -> bytes:
        """Makes the call in a child. The frame is the child's own, for the host to check, or tells of its death."""
        if os.lseek(self._stack, 0, os.SEEK_CUR):
            os.ftruncate(self._stack, 0)
            os.lseek(self._stack, 0, os.SEEK_SET)
        faulthandler.unregister(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, self._pass_on)
        started = time.perf_counter()
        reader, writer = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            self._in_child(writer, lambda: self._make(loaded, request, number, index, position))
        os.close(writer)
        try:
            frame, written = _first_frame(reader, self._child)
        finally:
            os.close(reader)
            code = self._end_child()
        output = self._capture.text()
        if frame is None:
            died = Answer("killed", reason=written, error=f"{code}\n{read_capture(self._stack, 16384) or ''}")
            frame = frame_of([number, *died, output, time.perf_counter() - started])
        self._answer_usr1_with_stack()
        return frame

    def _in_child(self, writer: int, make: Callable[[], bytes]) -> NoReturn:
        status = 70  # EX_SOFTWARE: something of the reward's broke our own code
        try:
            os.setpgid(0, 0)
            writer = _moved(writer)
            self._answer_usr1_with_stack()
            confine.confine_worker()
            confine.forbid_processes(self._policy)
            me = os.getpid()
            frame = make()
            if os.getpid() == me:
                write_all(writer, frame)
            status = 0
        finally:
            os._exit(status)

    def _end_child(self) -> int:
        """Kills the child's group. Its end, as `subprocess` has it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child, signal.SIGKILL)
        _, status = os.waitpid(self._child, 0)
        return os.waitstatus_to_exitcode(status)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """The host asks for the stack of what is running."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child, number)

    def _answer_usr1_with_stack(self) -> None:
        faulthandler.register(signal.SIGUSR1, file=self._stack, all_threads=False)

    def _is_full(self) -> bool:
        """Whether its memory has come near the limit. The peak costs little to ask for, so it is asked first."""
        now = time.perf_counter()
        if now < self._looked + LOOK_SECONDS:
            return False
        self._looked = now
        limit = FULL * self._policy["memory"]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (10 if sys.platform == "linux" else 0)
        return peak > limit and (_resident() or peak) > limit


def run(descriptors: Sequence[int], load: Callable[[], Loaded], folder: str, seed: str, policy: Policy) -> NoReturn:
    """Never returns."""
    status = 70
    try:
        Worker(descriptors, folder, seed, policy).run(load)
        status = 0
    finally:
        os._exit(status)  # no atexit handler or thread of the reward's may hold the worker


def _first_frame(reader: int, child: int) -> tuple[bytes | None, str | None]:
    """The first frame in the pipe; or None, if the child ends without one, and what it wrote instead."""
    os.set_blocking(reader, False)
    data = b""
    with _end_of(child) as end:
        watched = {reader} if end is None else {reader, end}
        while True:
            ready, _, _ = select.select(watched, [], [])
            part = _read_now(reader)
            data += part
            size = 4 + int.from_bytes(data[:4], "little")
            if len(data) >= 4 and size > MAX_FRAME:
                return None, f"a frame of {size - 4} bytes"
            if len(data) >= max(size, 5):
                return data[:size], None
            if not part and (end is None or end in ready):
                return None, f"{len(data)} bytes that are no answer" if data else None
            if not part:
                watched.discard(reader)  # the pipe is closed, and the child still there


@contextlib.contextmanager
def _end_of(child: int) -> Generator[int | None]:
    """A descriptor that is readable once the child has ended."""
    if hasattr(os, "pidfd_open"):
        end = os.pidfd_open(child)
        try:
            yield end
        finally:
            os.close(end)
    else:
        yield None


def _read_now(fd: int) -> bytes:
    try:
        return os.read(fd, MAX_FRAME)
    except BlockingIOError:
        return b""


def _moved(fd: int) -> int:
    """The descriptor under a high number; as it is where the limit on open files is low."""
    with contextlib.suppress(OSError):
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, SAFE_FD)
        os.close(fd)
        return high
    return fd


def _resident() -> int:
    """Bytes of memory this process holds."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _has_leftovers() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return True
    except ChildProcessError:
        pass
    try:
        return os.stat("/proc/self/task").st_nlink > 3  # `.`, `..` and one thread
    except OSError:
        return False
