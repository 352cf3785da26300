"""A reward worker: answers one call after the other over a socket, until it is killed.

Standard library only and nothing of ours: it runs in the user's interpreter as a fork of the zygote. It keeps no
deadline, for a signal that raises is not seen by a loop in C and is swallowed by `except:`; the host kills.
Each answer goes out as soon as it is there, so that the first unanswered call is the one that is running.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import io
import json
import os
import random
import reprlib
import resource
import signal
import struct
import sys
import time
import zlib
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn, Protocol, cast

TEXT_LIMIT = 4096
"""Bytes kept of an error and of a call's output, as UTF-8."""
OUTPUT_MAXIMUM = 256 << 20
"""Bytes that the output of one call, or one file it writes, may have: then it gets an OSError."""
SAFE_FD = 300
"""Our own descriptors lie above the numbers that a careless `os.closerange(3, 256)` closes."""

OURS = os.path.dirname(__file__) + os.sep

Answer = tuple[str, float | None, str | None, str | None]
"""Outcome, value, reason, error."""


class Loaded(Protocol):
    """The imported rewards of a version, as the zygote hands them over. Lists are by function."""

    folder: str
    """With a slash at its end."""
    names: list[str]
    functions: list[Callable[..., Any]]
    takes_ctx: list[bool]
    setups: list[Callable[[], object]]


class Ctx:
    """What a reward gets as `ctx` if it takes one."""

    __slots__ = ("finish", "group", "messages", "split", "step", "tokens")

    def __init__(self, step: int, split: str, messages: list[dict[str, str]] | None, finish: str | None) -> None:
        self.step = step
        """The optimizer step whose batch this is."""
        self.split = split
        """`train` or `eval`."""
        self.messages = messages
        """The prompt's chat turns, or None where it is plain text."""
        self.finish = finish
        """`eos`, or `length` where the completion was cut; None if unknown."""
        self.tokens: list[int] | int | None = None
        """The completion's token ids, or their number, for functions of TRL's style."""
        self.group: dict[str, Any] | None = None
        """For `batch: group`: `number` and `index`, and all `completions` as [text, tokens]; one object for all calls
        of a message."""


# ---------------------------------------------------------------------------------------------------- texts


def clip(text: str, limit: int = TEXT_LIMIT) -> str:
    """At most `limit` bytes of UTF-8: the first three quarters and the end."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > limit:
        mark = f"\n… {len(data) - limit} bytes left out …\n"
        room = limit - len(mark.encode())
        head, tail = data[: room * 3 // 4], data[len(data) - room // 4 :]
        return head.decode("utf-8", "ignore") + mark + tail.decode("utf-8", "ignore")
    return data.decode()


def read_capture(fd: int, limit: int = TEXT_LIMIT) -> str | None:
    """What was written to the file, clipped; None if nothing was."""
    size = os.fstat(fd).st_size
    if size == 0:
        return None
    if size <= 2 * limit:
        data = os.pread(fd, size, 0)
    else:
        data = os.pread(fd, limit, 0) + b"\n\xe2\x80\xa6 cut \xe2\x80\xa6\n" + os.pread(fd, limit, size - limit)
    return clip(data.decode("utf-8", "backslashreplace"), limit)


def describe(error: BaseException, folder: str) -> str:
    """`Type: message`, then the reward's own lines, innermost last, as `rewards.py:12 in equation`."""
    try:
        parts: list[str] = []
        link = ""
        current: BaseException | None = error
        while current is not None and len(parts) < 4:
            parts.append(link + _title(current) + "".join(_lines(current.__traceback__, folder)))
            link = "caused by " if current.__cause__ else "while handling "
            current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
        return clip("\n".join(parts))
    except BaseException:  # the exception is the user's object: its attributes may do anything
        return "an exception that can't be described"


def is_ours(file: str) -> bool:
    """Frames that say nothing about the reward: this room's, and the import machinery's."""
    return file.startswith((OURS, "<frozen importlib")) or file.endswith("importlib/__init__.py")


def failure(error: BaseException, folder: str) -> dict[str, Any]:
    """What to tell the host when an import or a `setup()` fails: the text, and the innermost line of the bundle."""
    file, line, traceback = "", 0, error.__traceback__
    while traceback is not None:
        name = traceback.tb_frame.f_code.co_filename
        if name.startswith(folder):
            file, line = name, traceback.tb_lineno
        traceback = traceback.tb_next
    if isinstance(error, SyntaxError) and (error.filename or "").startswith(folder):
        file, line = str(error.filename), error.lineno or 0
    return {"error": describe(error, folder), "file": file[len(folder) :], "line": line}


def _title(error: BaseException) -> str:
    try:
        message = str(error)
    except BaseException:
        message = "(its __str__ fails)"
    name = type(error).__name__
    return clip(f"{name}: {message}" if message else name, TEXT_LIMIT // 2)


def _lines(traceback: TracebackType | None, folder: str) -> list[str]:
    frames: list[tuple[FrameType, int]] = []
    while traceback is not None:
        frames.append((traceback.tb_frame, traceback.tb_lineno))
        traceback = traceback.tb_next
    lines = [text for frame, line in frames if (text := _line(frame, line, folder))]
    return lines if len(lines) <= 16 else [*lines[:4], f"\n  … {len(lines) - 16} more …", *lines[-12:]]


def _line(frame: FrameType, line: int, folder: str) -> str:
    code = frame.f_code
    file = code.co_filename
    if is_ours(file):
        return ""
    if not file.startswith(folder):
        return f"\n  {file}:{line} in {code.co_name}"
    return f"\n  {file[len(folder) :]}:{line} in {code.co_name}{_source(file, line)}"


def _source(file: str, line: int) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError, IndexError), open(file, encoding="utf-8") as lines:
        return f"\n    {lines.read().splitlines()[line - 1].strip()[:200]}"
    return ""


# ---------------------------------------------------------------------------------------------------- one call


def judge(result: Any) -> Answer:
    """What a returned value means: number, None, `{"score": …, "reason": …}`, or an error."""
    if isinstance(result, dict):
        fields = cast("dict[str, Any]", result)
        if "score" not in fields:
            return "non_numeric", None, None, 'returned a dict without "score"'
        reason = fields.get("reason")
        outcome, value, _, error = _number(fields["score"])
        return outcome, value, None if reason is None else clip(str(reason)), error
    return _number(result)


def _number(result: Any) -> Answer:
    if result is None:
        return "none", None, None, None
    if not hasattr(cast(Any, type(result)), "__float__") or getattr(result, "ndim", 0) != 0:
        text = f"returned {_shown(result)}; a reward returns a number, None or {{'score': number}}"
        return "non_numeric", None, None, clip(text)
    try:
        value = float(result)
    except OverflowError:
        return "non_finite", None, None, "returned a number too large for a float"
    if value - value != 0:  # inf - inf and nan - nan are nan
        return "non_finite", None, None, f"returned {value}"
    return "ok", value, None, None


def _shown(result: Any) -> str:
    kind = cast(Any, type(result))
    plain = kind in (str, bytes, list, tuple, set, complex)
    return f"{reprlib.repr(result)} ({kind.__name__})" if plain else f"an object of type {kind.__name__}"


def call(function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any], folder: str) -> Answer:
    try:
        result = function(*arguments, **keywords)
        if hasattr(cast(Any, type(result)), "__await__"):
            result = _finish(result)
        return judge(result)
    except BaseException as error:  # exit(), Ctrl-C and the like are this call's failure, not the worker's
        return "exception", None, None, describe(error, folder)


def _finish(awaitable: Any) -> Any:
    """Runs a coroutine to its end, on one event loop for the life of the worker."""
    import asyncio  # few rewards need it

    async def wait() -> Any:
        return await awaitable

    global _loop
    if _loop is None or _loop.is_closed():
        _loop = asyncio.new_event_loop()
        asyncio.set_event_loop(_loop)
    return _loop.run_until_complete(wait())


_loop: Any = None


def seed_generators(key: str) -> None:
    """The same numbers for the same call, whichever worker runs it and however often."""
    random.seed(key)
    numpy = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "random"):
        numpy.random.seed(zlib.crc32(key.encode()))


# ---------------------------------------------------------------------------------------------------- the process


class Capture:
    """Points fds 1 and 2, and Python's streams, to one file that the host holds too: it survives the worker."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._out = self._err = _stream(1)

    def begin(self) -> None:
        """Empties the file and undoes what the last call did to the streams."""
        if os.lseek(self._fd, 0, os.SEEK_CUR):
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        os.dup2(self._fd, 1)
        os.dup2(self._fd, 2)
        if _is_closed(self._out) or _is_closed(self._err):
            self._out, self._err = _stream(1), _stream(2)
        sys.stdout, sys.stderr = self._out, self._err

    def text(self) -> str | None:
        return read_capture(self._fd) if os.lseek(self._fd, 0, os.SEEK_CUR) else None


def _stream(fd: int) -> io.TextIOWrapper:
    raw: Any = open(fd, "wb", buffering=0, closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)


def _is_closed(stream: io.TextIOWrapper) -> bool:
    try:
        return stream.closed
    except ValueError:  # detached
        return True


class Connection:
    """Frames to and from the host: u32 length, little-endian, and JSON as UTF-8 (lone surrogates included)."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self) -> Any:
        """The next request; None when the host is gone."""
        header = self._exactly(4)
        body = self._exactly(struct.unpack("<I", header)[0]) if header else b""
        return json.loads(body.decode("utf-8", "surrogatepass")) if body else None

    def write(self, value: Any) -> None:
        body = json.dumps(value).encode()
        data = memoryview(struct.pack("<I", len(body)) + body)
        while data:
            data = data[os.write(self._fd, data) :]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._fd)

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size and (part := os.read(self._fd, min(size, 1 << 20))):
            parts.append(part)
            size -= len(part)
        return b"" if size else b"".join(parts)


def run(socket: int, output: int, stack: int, load: Callable[[], Loaded], folder: str, seed: str) -> NoReturn:
    """The worker's life, after the fork. The three descriptors are ours alone; never returns."""
    status = 70  # EX_SOFTWARE: something of the reward's (a signal handler, a thread) broke our own loop
    try:
        socket, output, stack = (_moved(fd) for fd in (socket, output, stack))
        connection = Connection(socket)
        capture = Capture(output)
        capture.begin()
        _prepare(stack, connection)
        if (loaded := _ready(load, folder, connection)) is not None:
            _serve(connection, capture, loaded, seed)
        status = 0
    finally:
        os._exit(status)  # no atexit handler or thread of the reward's may hold the worker


def _ready(load: Callable[[], Loaded], folder: str, connection: Connection) -> Loaded | None:
    """Imports if that wasn't done before the fork, calls every `setup()` and says hello: `{}`, or what failed."""
    try:
        loaded = load()
        for setup in loaded.setups:
            setup()
    except BaseException as error:
        connection.write(failure(error, folder))
        return None
    connection.write({})
    return loaded


def _serve(connection: Connection, capture: Capture, loaded: Loaded, seed: str) -> None:
    me = os.getpid()
    while (request := connection.read()) is not None:
        for number, index, position in request["calls"]:
            capture.begin()
            started = time.perf_counter()
            answer = _answer(loaded, request, index, position, seed)
            seconds = time.perf_counter() - started
            if os.getpid() != me:
                return  # a child that the reward forked and let return
            connection.write([number, *answer, capture.text(), seconds])
        if _has_leftovers():
            return  # a fresh worker is cheap; a thread or child that lives on could harm the next call


def _answer(loaded: Loaded, request: dict[str, Any], index: int, position: int, seed: str) -> Answer:
    number, completion, finish = request["completions"][position]
    place = (seed, request["step"], request["split"], request["group"], number, loaded.names[index])
    seed_generators("/".join(map(str, place)))
    arguments = (request["prompt"], completion, json.loads(request["example"]))
    keywords: dict[str, Any] = {}
    if loaded.takes_ctx[index]:
        messages = json.loads(request["messages"])
        ctx = keywords["ctx"] = Ctx(request["step"], request["split"], messages, finish)
        ctx.tokens = request["tokens"][position] if "tokens" in request else None
        ctx.group = request.get("whole")
        if ctx.group is not None:
            ctx.group["index"] = number
    return call(loaded.functions[index], arguments, keywords, loaded.folder)


def _prepare(stack: int, connection: Connection) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.enable(file=stack, all_threads=False)
    faulthandler.register(signal.SIGUSR1, file=stack, all_threads=False)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (OUTPUT_MAXIMUM, OUTPUT_MAXIMUM))
    os.register_at_fork(after_in_child=connection.close)


def _moved(fd: int) -> int:
    """The descriptor under a high number; as it is where the limit on open files is low."""
    with contextlib.suppress(OSError):
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, SAFE_FD)
        os.close(fd)
        return high
    return fd


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
