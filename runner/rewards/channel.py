"""A worker's end of its channel to the host: u32 length, little-endian, and JSON as UTF-8 (lone surrogates included).

The answers to fast calls go out in blocks: to be woken for each would take the host longer than such a call. Until it
is out an answer stands in the *draft*, a file that the host has too. So the first call that is neither answered nor
drafted is the one that runs, and what a worker has answered outlives it. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import struct
import time
from typing import Any

from .answering import received

LENGTH = struct.Struct("<I")
DRAFT_BYTES = 32 << 10
"""Of the draft: the length of what stands in it, and frames."""
BLOCK_SECONDS = 0.001
"""Age at which a block goes out: so much too early, at most, the host takes a call to have begun."""


class Connection:
    """Frames to and from the host."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def read(self) -> Any:
        """The next request; None when the host is gone."""
        header = self._exactly(4)
        body = self._exactly(LENGTH.unpack(header)[0]) if header else b""
        return received(body) if body else None

    def has_more(self) -> bool:
        """Whether a request waits, or the host is gone."""
        return bool(select.select((self.fd,), (), (), 0)[0])

    def write(self, value: Any) -> None:
        self.send(frame_of(value))

    def send(self, frames: bytes) -> None:
        write_all(self.fd, frames)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.fd)

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size and (part := os.read(self.fd, min(size, 1 << 20))):
            parts.append(part)
            size -= len(part)
        return b"" if size else b"".join(parts)


class Answers:
    """Frames that gather in the draft and go out as blocks."""

    def __init__(self, connection: Connection, draft: int) -> None:
        self._connection = connection
        self._draft = mmap.mmap(draft, DRAFT_BYTES)
        self._end = LENGTH.size
        self._sent = 0.0

    def begin(self) -> None:
        """A message has come: what there will be to send isn't older than this."""
        if self._end == LENGTH.size:
            self._sent = time.perf_counter()

    def add(self, frame: bytes) -> None:
        if self._end + len(frame) > DRAFT_BYTES:
            self.send()
        end = self._end + len(frame)
        if end > DRAFT_BYTES:
            return self._connection.send(frame)
        self._draft[self._end : end] = frame
        self._set_end(end)
        if time.perf_counter() - self._sent > BLOCK_SECONDS:
            self.send()
        return None

    def send(self) -> None:
        """Sends what has gathered."""
        if self._end > LENGTH.size:
            self._connection.send(self._draft[LENGTH.size : self._end])
            self._set_end(LENGTH.size)
            self._sent = time.perf_counter()

    def _set_end(self, end: int) -> None:
        """After the frames, so that the host never reads half of one."""
        self._end = end
        LENGTH.pack_into(self._draft, 0, end)


def read_draft(fd: int) -> bytes:
    """The frames in a draft, for the host: whatever a reward may have written there, no more than a draft has."""
    data = os.pread(fd, DRAFT_BYTES, 0)
    return data[LENGTH.size : LENGTH.unpack_from(data)[0]] if len(data) >= LENGTH.size else b""


def frame_of(value: Any) -> bytes:
    return packed(json.dumps(value))


def packed(text: str) -> bytes:
    body = text.encode()
    return LENGTH.pack(len(body)) + body


def write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
