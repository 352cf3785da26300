"""What the host and a worker say to each other. The worker's words are untrusted: every field is checked here.

A frame is a u32 length, little-endian, and that many bytes of JSON. Never pickle: it would run code of the sender.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from runner.rewards.contract import Outcome
from runner.rewards.worker import clip

MAX_ANSWER = 256 << 10
"""Bytes of a worker's frame; three texts of 4 kB take at most 72 kB with every character escaped."""
ANSWERS = frozenset({Outcome.OK, Outcome.NONE, Outcome.NON_NUMERIC, Outcome.NON_FINITE, Outcome.EXCEPTION})
"""Outcomes that a worker may report. The others are for the host to see."""


class ProtocolError(Exception):
    """The worker's channel carries something that isn't an answer: a reward wrote to it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A worker's word on one call, checked."""

    number: int
    outcome: Outcome
    value: float | None
    reason: str | None
    error: str | None
    output: str | None
    seconds: float


def encode(value: object) -> bytes:
    """A frame for a worker. Lone surrogates pass; what JSON doesn't know goes as its `str()`."""
    body = json.dumps(value, ensure_ascii=False, check_circular=False, default=str).encode("utf-8", "surrogatepass")
    return struct.pack("<I", len(body)) + body


def split(buffer: bytearray) -> Iterator[bytes]:
    """Takes the complete frames off the front of the buffer. Raises ProtocolError for a frame too large."""
    start = 0
    try:
        while len(buffer) >= start + 4:
            size = int.from_bytes(buffer[start : start + 4], "little")
            if size > MAX_ANSWER:
                raise ProtocolError(f"a frame of {size} bytes")
            if len(buffer) < start + 4 + size:
                return
            start += 4 + size
            yield bytes(buffer[start - size : start])
    finally:
        del buffer[:start]


def decode(frame: bytes) -> Any:
    """The JSON in a frame. Raises ProtocolError for anything else."""
    try:
        return json.loads(frame)
    except (ValueError, RecursionError):
        raise ProtocolError(f"{len(frame)} bytes that are no JSON") from None


def answer(frame: bytes) -> Answer:
    """The answer in a frame. Raises ProtocolError unless it is one in every field."""
    fields = decode(frame)
    if not isinstance(fields, list) or len(cast(list[Any], fields)) != 7:
        raise ProtocolError("a frame that is no answer")
    number, outcome, value, reason, error, output, seconds = cast(list[Any], fields)
    if type(number) is not int or outcome not in ANSWERS:
        raise ProtocolError("an answer of no known outcome")
    if (outcome == Outcome.OK) != (type(value) is float and math.isfinite(value)) or (
        outcome != Outcome.OK and value is not None
    ):
        raise ProtocolError("an answer whose value doesn't fit its outcome")
    if type(seconds) is not float or not 0 <= seconds < math.inf:
        raise ProtocolError("an answer without its duration")
    return Answer(number, Outcome(outcome), value, _text(reason), _text(error), _text(output), seconds)


def _text(text: Any) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise ProtocolError("an answer with a text that is none")
    return clean(text)


def clean(text: str) -> str:
    """Text that every reader can take: no lone surrogates, no NUL, at most 4 kB."""
    return clip(text.replace("\0", "\\x00"))
