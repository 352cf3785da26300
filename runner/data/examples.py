"""The noun of this room: one dataset row as a prompt and its other columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict


class Message(TypedDict):
    """One chat turn, as chat templates take it."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One dataset row."""

    id: int
    """Its row number in the dataset, from 0."""
    prompt: str | list[Message]
    """Text as it stands, or messages for a chat template; a last message of role `assistant` is a prefilled turn."""
    columns: Mapping[str, Any]
    """Every column of the row, in native types: what reward functions get as `example`."""
