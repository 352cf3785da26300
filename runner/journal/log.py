"""Append to and read one attempt's journal: JSON lines, one write() a line.

A line is complete when its newline is there; a torn last line (kill -9, full disk) is what the reader ignores and the
writer cuts off. Order is the file's, not the clock's.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from runner.journal.events import Event
from runner.journal.failpoints import failpoint

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Event).decode


class Journal:
    """Writer of one attempt's file. One process owns it; its threads may share it.

    Raises OSError (ENOSPC and the like) from `append`; the file then still ends with a complete line.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._end = os.fstat(self._fd).st_size
        self._seq = 0
        self._lock = threading.Lock()

    def append(self, event: Event) -> None:
        with self._lock:
            self._append(event)

    def _append(self, event: Event) -> None:
        failpoint("journal.append")
        self._seq += 1
        line = _encode(msgspec.structs.replace(event, seq=self._seq, at=time.time())) + b"\n"
        try:
            _write_all(self._fd, line)
        except OSError:
            os.ftruncate(self._fd, self._end)
            self._seq -= 1
            raise
        self._end += len(line)

    def sync(self) -> None:
        """Returns when everything appended is on the disk (before a checkpoint's manifest is written)."""
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def read(path: Path, offset: int = 0) -> Iterator[tuple[Event, int]]:
    """Complete events from byte `offset` on, each with the offset behind it. A torn tail is left for later."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield _decode(line), offset


def read_types(path: Path, *types: str) -> Iterator[Event]:
    """The complete events of these types; no others are decoded."""
    heads = tuple(f'{{"type":"{name}"'.encode() for name in types)
    if not path.exists():
        return
    with path.open("rb") as file:
        yield from (_decode(line) for line in file if line.startswith(heads) and line.endswith(b"\n"))
