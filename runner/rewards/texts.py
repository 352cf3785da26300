"""Texts that leave a reward process: errors, output, stacks. Cut to size, readable by everyone, without secrets.

Standard library only: both the host and the reward processes use it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Any

from .refusals import way_out

TEXT_LIMIT = 4096
"""Bytes kept of an error and of a call's output, as UTF-8."""
OUTPUT_STARTS = 65_537
"""Where a call's output begins in its file: a place in a file by which a worker knows that it is this one."""
OURS = os.path.dirname(__file__) + os.sep


_hidden: dict[str, str] = {}
"""Value → what stands in its place; longest first."""


def hide(secrets: Mapping[str, str]) -> None:
    """From here on no text that this process cuts to size shows these values (by name), nor a long line of one."""
    for name, value in secrets.items():
        forms = [value, json.dumps(value)[1:-1], *(line for line in value.splitlines() if len(line) >= 16)]
        _hidden.update(dict.fromkeys(filter(None, forms), f"[secret {name}]"))
    for value in sorted(_hidden, key=len, reverse=True):
        _hidden[value] = _hidden.pop(value)


def redact(text: str) -> str:
    for value, mark in _hidden.items():
        text = text.replace(value, mark)
    return text


def clip(text: str, limit: int = TEXT_LIMIT) -> str:
    """At most `limit` bytes of UTF-8, without secrets: the first three quarters and the end."""
    data = redact(text).encode("utf-8", "backslashreplace")
    if len(data) > limit:
        mark = f"\n… {len(data) - limit} bytes left out …\n"
        room = limit - len(mark.encode())
        head, tail = data[: room * 3 // 4], data[len(data) - room // 4 :]
        return head.decode("utf-8", "ignore") + mark + tail.decode("utf-8", "ignore")
    return data.decode()


def read_capture(fd: int, limit: int = TEXT_LIMIT, start: int = 0) -> str | None:
    """What was written to the file from the byte `start` on, clipped; None if nothing was."""
    size = os.fstat(fd).st_size - start
    if size <= 0:
        return None
    hidden = max((len(value.encode()) for value in _hidden), default=0)
    room = limit + hidden
    if size <= 2 * room:
        return clip(os.pread(fd, size, start).decode("utf-8", "backslashreplace"), limit)
    head, tail = (
        redact(os.pread(fd, room, at).decode("utf-8", "backslashreplace")) for at in (start, start + size - room)
    )
    if hidden:  # a secret that the cut went through is still there in part
        head, tail = head[:-hidden], tail[hidden:]
    return clip(f"{head}\n… cut …\n{tail}", limit)


def describe(error: BaseException, folder: str) -> str:
    """`Type: message`, then the reward's own lines, innermost last, as `rewards.py:12 in equation`."""
    try:
        parts: list[str] = []
        link = advice = ""
        current: BaseException | None = error
        while current is not None and len(parts) < 8:
            parts += [link + _title(current), "".join(_lines(current.__traceback__, folder))]
            advice = advice or _way_out(current)
            link = "\ncaused by " if current.__cause__ else "\nwhile handling "
            current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
        parts[0] += advice and f"\n  {advice}"
        return clip("".join(parts))
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


def _way_out(error: BaseException) -> str:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    file, line = (traceback.tb_frame.f_code.co_filename, traceback.tb_lineno) if traceback else ("", 0)
    return way_out(error, file, _source(file, line))


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
