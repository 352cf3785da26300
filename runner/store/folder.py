"""The records that let a run folder restore its rows: `run.json`, `state.json` and each attempt's `exit.json`.

`run.json` and `state.json` are written by `Store` inside the transaction that they describe, so a row never lacks its
file; `exit.json` is the supervisor's. Journals hold the rest.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from runner.journal.states import Reason, State

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
    seq: int
    at: float
    data: dict[str, Any]


class StateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`state.json`: what only the database knows of a run."""

    run: RunState
    attempts: list[AttemptState]
    transitions: list[TransitionRecord]


class ExitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`attempts/<n>/exit.json`: how an attempt ended, by its supervisor. Further fields are ignored."""

    outcome: Reason
    exit_code: int | None = None
    detail: str = ""
    ended_at: float | None = None


def run_file(folder: Path) -> Path:
    return folder / "run.json"


def state_file(folder: Path) -> Path:
    return folder / "state.json"


def exit_file(folder: Path, n: int) -> Path:
    return folder / "attempts" / str(n) / "exit.json"


def journal_name(n: int) -> str:
    """Path of attempt n's journal, relative to the run folder."""
    return f"journal/{n:04d}.jsonl"


def journals(folder: Path) -> list[int]:
    """Attempts that have a journal on the disk, in order."""
    return sorted(int(path.stem) for path in (folder / "journal").glob("*.jsonl") if path.stem.isdigit())


def write(path: Path, record: msgspec.Struct) -> None:
    """Replaces the file whole, or leaves it as it was. Makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(msgspec.json.encode(record))
    part.replace(path)


def read(path: Path, kind: type[Record]) -> Record | None:
    """The record, or None when the file is missing or was cut short by a crash."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
