"""Rows as they come out of the store: one frozen dataclass for each table or view, columns in the table's order.

Times are seconds since the epoch. JSON columns come decoded, except `spec`, whose reader is `runner.spec`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

import msgspec

from runner.journal.states import Reason, State

Row = TypeVar("Row")
Want = Literal["run", "stop", "cancel", "delete"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One execution of one revision of a job."""

    id: str
    """`<job>-<n>`, n counting the job's runs from 1."""
    number: int
    """Order of submission among all runs, from 1."""
    job: str
    revision: str
    backend: str
    emulated: bool
    parent: str | None
    priority: int
    want: Want
    """What people wish: go on, stop after a checkpoint, or end for good (`delete`: because the job file is gone)."""
    state: State
    reason: Reason | None
    detail: str
    """One line for people: what it waits for, or how it ended."""
    error: str | None
    """The long form of a failure, as a traceback."""
    folder: str
    """Relative to the folder the database is in."""
    spec: str
    digest: str | None
    digest_note: str
    """Why the digest can't be compared with another run's; empty when it can."""
    last_step: int
    """Last step with recorded metrics; 0 before the first."""
    total_steps: int
    created_at: float
    started_at: float | None
    ended_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedRow:
    """A run in the queue, without the large columns: the queue is looked at often."""

    id: str
    number: int
    job: str
    revision: str
    backend: str
    emulated: bool
    priority: int
    want: Want
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """One process start of a run."""

    run_id: str
    n: int
    handle: dict[str, Any] | None
    """Who runs it: `pid` of the supervisor and its `started` time, whatever `runner.queue` needs to find it again."""
    host: str | None
    boot_id: str | None
    resumed_step: int | None
    journal: str
    """Relative to the run folder."""
    journal_offset: int
    """Bytes of the journal that are rows by now."""
    outcome: str | None
    exit_code: int | None
    started_at: float | None
    ended_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job file as the last scan saw it."""

    name: str
    path: str
    revision: str | None
    """Of its last sound version; None for a file that has had none."""
    state: str
    errors: list[Any]
    seen_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    id: int
    """The one cursor over everything that happened."""
    run_id: str
    attempt: int
    """0: the store's own events, as `transition`."""
    seq: int
    type: str
    step: int | None
    at: float
    data: dict[str, Any] | None
    """None for events whose contents are in tables of their own."""
    void: bool
    """A later attempt went back behind this event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardVersionRow:
    run_id: str
    version: int
    """1, 2, 3 within the run."""
    sha256: str
    """What `reward_version` of a completion names."""
    source: str | None
    """Its Python files as JSON, {path: text}. None for one that was refused before any could be kept."""
    state: Literal["staged", "active", "retired", "rejected"]
    first_step: int | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRow:
    run_id: str
    step: int
    path: str
    """Relative to the run folder."""
    bytes: int
    kept: bool
    weights: str
    """sha256 over the policy's weight files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """One reward call; see `runner.rewards.contract.Score`."""

    rollout_id: int
    name: str
    value: float | None
    outcome: str
    reason: str | None
    error: str | None
    output: str | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRow:
    """One rollout with its prompt and its scores."""

    id: int
    run_id: str
    split: Literal["train", "eval"]
    step: int
    group_id: int
    idx: int
    example_id: int
    prompt: str | None
    completion: str
    n_tokens: int
    finish_reason: str
    reward: float | None
    advantage: float
    reward_version: str
    scores: dict[str, ScoreRow] = field(default_factory=dict[str, ScoreRow])


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One example and what came of it in one split of a run."""

    example_id: int
    prompt: str
    prompt_length: int
    """In characters."""
    columns: str
    """JSON text."""
    completions: int
    first_step: int
    last_step: int
    best: float | None
    mean: float | None
    """Of the rewards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """The completions of one prompt at one step, in figures. Rewards of completions that left the group don't count."""

    run_id: str
    split: Literal["train", "eval"]
    step: int
    group_id: int
    example_id: int
    prompt: str | None
    completions: int
    scored: int
    """How many have a reward."""
    reward_mean: float | None
    reward_min: float | None
    reward_max: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardLogRow:
    """A reward call that failed or printed."""

    run_id: str
    step: int
    split: Literal["train", "eval"]
    name: str
    version: str
    rollout_id: int
    outcome: str
    error: str | None
    output: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRow:
    """Calls of one reward function that ended alike."""

    name: str
    outcome: str
    calls: int
    seconds: float
    """All of them together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A run to start, or in words why there is none."""

    run: RunRow | None
    attempt: int = 0
    """Number of the attempt that the claim made."""
    waiting: str = ""


def columns(kind: type) -> str:
    """The row's columns, for a SELECT."""
    return ", ".join(f.name for f in fields(kind) if f.name != "scores")


_JSON = frozenset({"handle", "data", "errors", "columns"})


def fetch(conn: sqlite3.Connection, kind: type[Row], sql: str, params: Sequence[object] = ()) -> list[Row]:
    """Rows of a SELECT whose columns are the fields of `kind`."""
    cursor = conn.execute(sql, tuple(params))
    names = [column[0] for column in cursor.description]
    return [_row(kind, names, values) for values in cursor]


def _row(kind: type[Row], names: list[str], values: tuple[Any, ...]) -> Row:
    pairs = zip(names, values, strict=True)
    found = {name: json.loads(value) if name in _JSON and value is not None else value for name, value in pairs}
    return msgspec.convert(found, kind, strict=False)
