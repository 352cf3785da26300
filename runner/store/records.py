"""The records that, with the journals, let a run folder restore its rows: `run.json` and `state.json`.

`Store` writes them inside the transaction that they describe, so a row never lacks its file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from runner.journal.states import Reason, State
from runner.store.errors import StoreUnavailable

Record = TypeVar("Record", bound=msgspec.Struct)


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`run.json`: what submit knew. Never changes."""

    id: str
    number: int
    job: str
    revision: str
    backend: str
    emulated: bool
    parent: str | None
    total_steps: int
    created_at: float
    spec: msgspec.Raw
    """The resolved job as JSON, byte for byte."""


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    state: State
    reason: Reason | None = None
    detail: str = ""
    error: str | None = None
    want: str = "run"
    priority: int = 0
    digest: str | None = None
    digest_note: str = ""
    started_at: float | None = None
    ended_at: float | None = None


class AttemptState(msgspec.Struct, frozen=True, kw_only=True):
    n: int
    handle: dict[str, Any] | None = None
    host: str | None = None
    boot_id: str | None = None
    outcome: str | None = None
    exit_code: int | None = None
    started_at: float | None = None
    ended_at: float | None = None


class TransitionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An event of the store's own: `transition`, or an `alert` of `runner watch`."""

    seq: int
    at: float
    data: dict[str, Any]
    type: str = "transition"


class StateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`state.json`: what only the database knows of a run."""

    run: RunState
    attempts: list[AttemptState]
    transitions: list[TransitionRecord]


def write(path: Path, record: msgspec.Struct) -> None:
    """Replaces the file whole, or leaves it as it was. Makes its folder. Raises StoreUnavailable."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(msgspec.json.encode(record))
        part.replace(path)
    except OSError as error:
        raise StoreUnavailable(f"{path}: nothing was written: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def read(path: Path, kind: type[Record]) -> Record | None:
    """The record, or None when the file is missing or was cut short by a crash."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
