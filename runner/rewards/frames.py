"""What the host and a worker say to each other. The worker's words are untrusted: every field is checked here.

A frame is a u32 length, little-endian, and that many bytes of JSON. Never pickle: it would run code of the sender.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

import msgspec

from runner.rewards.texts import clip

MAX_ANSWER = 256 << 10
"""Bytes of a worker's frame; three texts of 4 kB take at most 72 kB with every character escaped."""


class ProtocolError(Exception):
    """The worker's channel carries something that isn't an answer: a reward wrote to it."""


class Hello(msgspec.Struct, frozen=True):
    """The first frame of the zygote, when it has imported the rewards, and of a worker, when it is ready."""

    error: str | None = None
    """Why it can't serve: the import, or a `setup()`, failed."""
    file: str = ""
    line: int = 0
    """Where in the bundle the error came from."""


class Answer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A worker's word on one call."""

    number: int
    outcome: Literal["ok", "none", "non_numeric", "non_finite", "exception", "retry", "timeout", "killed"]
    """`retry`: an exception of a kind that passes. `timeout`: of one call among several in a worker. `killed`: of a
    call with a process of its own; `error` has its exit code and, in the further lines, its stack."""
    value: float | None
    """A number exactly when the outcome is `ok`."""
    reason: str | None
    error: str | None
    output: str | None
    seconds: Annotated[float, msgspec.Meta(ge=0, le=1e6)]
    metrics: Annotated[dict[Annotated[str, msgspec.Meta(max_length=64)], float], msgspec.Meta(max_length=32)] = {}
    tokens: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0


_CODE = re.compile(r"-?\d{1,9}\n")
_encode = msgspec.json.Encoder().encode
_decode_answer = msgspec.json.Decoder(Answer).decode
_decode_hello = msgspec.json.Decoder(Hello).decode


json_text = json.JSONEncoder(ensure_ascii=False, check_circular=False, default=str).encode
"""A value as JSON. Lone surrogates pass; what JSON doesn't know goes as its `str()`."""


def to_json(value: object) -> msgspec.Raw:
    """JSON for a part of a frame to a worker, as `json_text`."""
    return msgspec.Raw(json_text(value).encode("utf-8", "surrogatepass"))


def encode(parts: Mapping[str, object]) -> bytes:
    """A frame for a worker, of parts that JSON knows and of `to_json`'s."""
    try:
        body = _encode(parts)
    except UnicodeEncodeError:  # a lone surrogate
        body = _encode({name: part if isinstance(part, msgspec.Raw) else to_json(part) for name, part in parts.items()})
    return struct.pack("<I", len(body)) + body


def split(buffer: bytearray) -> Iterator[bytes]:
    """Takes the complete frames off the front of the buffer. Raises ProtocolError for a frame too large."""
    data, start = bytes(buffer), 0
    try:
        while len(data) >= start + 4:
            size = int.from_bytes(data[start : start + 4], "little")
            if size > MAX_ANSWER:
                raise ProtocolError(f"a frame of {size} bytes")
            if len(data) < start + 4 + size:
                return
            start += 4 + size
            yield data[start - size : start]
    finally:
        del buffer[:start]


def answer(frame: bytes) -> Answer:
    """The answer in a frame. Raises ProtocolError unless it is one in every field."""
    try:
        said = _decode_answer(frame)
    except (ValueError, RecursionError):
        raise ProtocolError(f"{len(frame)} bytes that are no answer") from None
    if (said.outcome == "ok") != (said.value is not None and math.isfinite(said.value)):
        raise ProtocolError("an answer whose value doesn't fit its outcome")
    if said.outcome == "killed" and not _CODE.match(said.error or ""):
        raise ProtocolError("a death without its exit code")
    return said


def hello(frame: bytes) -> Hello:
    """The greeting in a frame. Raises ProtocolError for anything else."""
    try:
        return _decode_hello(frame)
    except (ValueError, RecursionError):
        raise ProtocolError(f"{len(frame)} bytes that are no greeting") from None


def clean(text: str) -> str:
    """Text that every reader can take: no lone surrogates, no NUL, at most 4 kB."""
    return clip(text.replace("\0", "\\x00"))
