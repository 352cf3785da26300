"""Journal → rows: each event becomes its rows and one row of `events`, in the order of the attempts and their files.

The rows and the byte offset behind them are one transaction, so racing ingesters give every row once and a crash loses
nothing. The ids of a run's rollouts count up from a base of the run's own, and so a rebuild gives the same ids.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from runner.journal import events
from runner.journal.log import read
from runner.store.errors import JournalError
from runner.store.schema import IntegrityError

CHUNK_EVENTS = 500
CHUNK_BYTES = 8 << 20
ROLLOUTS_PER_RUN = 1 << 32
"""Rollout ids of run number r lie in (r·2³², (r+1)·2³²): below 2⁵³, as JavaScript needs, for two million runs."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive events of one journal: what one transaction writes."""

    events: list[events.Event]
    end: int
    """Offset behind the last of them."""


def read_chunk(path: Path, offset: int) -> Chunk:
    """At most CHUNK_EVENTS complete events, or about CHUNK_BYTES. Raises JournalError when the first is broken."""
    chunk: list[events.Event] = []
    end = offset
    try:
        for event, end in read(path, offset):
            chunk.append(event)
            if len(chunk) >= CHUNK_EVENTS or end - offset >= CHUNK_BYTES:
                break
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if not chunk:
            raise JournalError(f"{path}: byte {end}: not an event this runner knows: {error}") from error
    return Chunk(chunk, end)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a chunk's rows go."""

    conn: sqlite3.Connection
    run_id: str
    number: int
    attempt: int
    rewards: Path
    """The run's reward versions: a folder of sources each, named by its hash."""


def insert(to: Target, event: events.Event) -> None:
    """The event's rows. Raises JournalError when they contradict what is there."""
    try:
        _insert_event(to, event)
        _insert_contents(to, event)
    except IntegrityError as error:
        name = f"attempt {to.attempt}, event {event.seq} ({events.type_of(event)})"
        raise JournalError(f"run {to.run_id}, {name}: contradicts earlier rows: {error}") from error


def _insert_event(to: Target, event: events.Event) -> None:
    data = None if isinstance(event, events.BULK) else json.dumps(_data(event), ensure_ascii=False)
    step = event.first_step if isinstance(event, events.VersionChanged) else getattr(event, "step", None)
    to.conn.execute(
        "INSERT INTO events (run_id, attempt, seq, type, step, at, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (to.run_id, to.attempt, event.seq, events.type_of(event), step, event.at, data),
    )


def _data(event: events.Event) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(event)
    return {name: value for name, value in fields.items() if name not in ("type", "seq", "at")}


def _insert_contents(to: Target, event: events.Event) -> None:
    match event:
        case events.AttemptStarted():
            _start_attempt(to, event)
            _rewind(to, -1 if event.resumed_step is None else event.resumed_step)
        case events.ExamplesSeen():
            _insert_examples(to, event)
        case events.BatchScored():
            _insert_batch(to, event)
        case events.MetricsReported():
            _insert_metrics(to, event)
        case events.VersionChanged():
            _change_version(to, event)
        case events.CheckpointSaved():
            to.conn.execute(
                "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, 1, ?)",
                (to.run_id, event.step, event.path, event.bytes, event.weights),
            )
        case events.CheckpointRemoved():
            to.conn.execute("UPDATE checkpoints SET kept = 0 WHERE run_id = ? AND step = ?", (to.run_id, event.step))
        case events.DifferencesFound() | events.SandboxChecked() | events.Alert() | events.AttemptEnded():
            pass


def _insert_examples(to: Target, event: events.ExamplesSeen) -> None:
    to.conn.executemany(
        "INSERT OR IGNORE INTO examples (run_id, id, prompt, columns) VALUES (?, ?, ?, ?)",
        [(to.run_id, e.id, e.prompt, msgspec.json.encode(e.columns).decode()) for e in event.examples],
    )


def _insert_batch(to: Target, event: events.BatchScored) -> None:
    rollouts: list[tuple[Any, ...]] = []
    scores: list[tuple[Any, ...]] = []
    rollout_id = _last_rollout(to)
    for group in event.groups:
        for idx, r in enumerate(group.rollouts):
            rollout_id += 1
            place = (rollout_id, to.run_id, event.split, event.step, group.group_id, idx, group.example_id)
            made = (r.completion, r.n_tokens, r.finish_reason, r.reward, r.advantage, event.reward_version)
            rollouts.append(place + made)
            scores += [
                (rollout_id, s.name, s.value, s.outcome, s.reason, s.error, s.output, s.seconds) for s in r.scores
            ]
    to.conn.executemany(f"INSERT INTO rollouts VALUES ({', '.join('?' * 13)})", rollouts)
    to.conn.executemany(f"INSERT INTO scores VALUES ({', '.join('?' * 8)})", scores)


def _last_rollout(to: Target) -> int:
    low, high = rollout_ids(to.number)
    row = to.conn.execute("SELECT max(id) FROM rollouts WHERE id > ? AND id < ?", (low, high)).fetchone()
    return low if row[0] is None else int(row[0])


def rollout_ids(number: int) -> tuple[int, int]:
    """The open interval that a run's rollout ids lie in."""
    return number * ROLLOUTS_PER_RUN, (number + 1) * ROLLOUTS_PER_RUN


def _insert_metrics(to: Target, event: events.MetricsReported) -> None:
    to.conn.executemany(
        "INSERT OR REPLACE INTO metrics (run_id, name, step, value) VALUES (?, ?, ?, ?)",
        [(to.run_id, name, event.step, value) for name, value in event.metrics.items()],
    )
    to.conn.execute("UPDATE runs SET last_step = max(last_step, ?) WHERE id = ?", (event.step, to.run_id))


def _change_version(to: Target, event: events.VersionChanged) -> None:
    """A version that comes back keeps its number and its first step."""
    to.conn.execute(
        "INSERT INTO reward_versions (run_id, version, sha256, source, state, first_step, error) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET state = excluded.state, error = excluded.error, "
        "first_step = coalesce(first_step, excluded.first_step)",
        (
            *(to.run_id, event.number, event.version, _sources(to.rewards / event.version)),
            *(event.state, event.first_step, event.error),
        ),
    )


def _sources(folder: Path) -> str | None:
    """A version's Python files as JSON, {path: text}; None for one that was refused before any could be kept."""
    texts = {str(path.relative_to(folder)): path.read_text(errors="replace") for path in sorted(folder.rglob("*.py"))}
    return json.dumps(texts, ensure_ascii=False) if texts else None


def _start_attempt(to: Target, event: events.AttemptStarted) -> None:
    to.conn.execute(
        "UPDATE attempts SET resumed_step = ?, started_at = coalesce(started_at, ?) WHERE run_id = ? AND n = ?",
        (event.resumed_step, event.at, to.run_id, to.attempt),
    )


def _rewind(to: Target, step: int) -> None:
    """Takes back what earlier attempts recorded behind `step`, the one this attempt goes on from; examples stay.

    The evaluation of that very step goes too: the resumed run makes it again where one is due, so it does not matter on
    which side of the checkpoint the process died.
    """
    run, conn = to.run_id, to.conn
    conn.execute("DELETE FROM rollouts WHERE run_id = ? AND split = 'train' AND step > ?", (run, step))
    conn.execute("DELETE FROM rollouts WHERE run_id = ? AND split = 'eval' AND step >= ?", (run, step))
    conn.execute(
        "DELETE FROM metrics WHERE run_id = ? AND (step > ? OR (step = ? AND name GLOB 'eval/*'))", (run, step, step)
    )
    conn.execute("DELETE FROM checkpoints WHERE run_id = ? AND step > ?", (run, step))
    conn.execute("UPDATE runs SET last_step = min(last_step, ?) WHERE id = ?", (max(step, 0), run))
    conn.execute(
        "UPDATE events SET void = 1 WHERE run_id = ? AND attempt > 0 AND attempt < ? "
        "AND (step > ? OR (step = ? AND type = 'metrics_reported' AND data LIKE '%\"eval/%'))",
        (run, to.attempt, step, step),
    )
    _rewind_versions(to, step)


def _rewind_versions(to: Target, step: int) -> None:
    """Live again is the version whose switch is the last one not taken back."""
    run, conn = to.run_id, to.conn
    conn.execute("DELETE FROM reward_versions WHERE run_id = ? AND first_step > ?", (run, step))
    live = conn.execute(
        "SELECT data ->> '$.version' FROM events WHERE run_id = ? AND attempt > 0 AND type = 'version_changed' "
        "AND data ->> '$.state' = 'active' AND void = 0 ORDER BY id DESC LIMIT 1",
        (run,),
    ).fetchone()
    conn.execute(
        "UPDATE reward_versions SET state = iif(sha256 = ?, 'active', 'retired') "
        "WHERE run_id = ? AND state IN ('active', 'retired')",
        (live[0] if live else None, run),
    )
