"""The inserts that submit, ingest and rebuild share. Each runs inside its caller's transaction."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import msgspec

from runner.journal.folder import RunFolder
from runner.store import records


def insert_run(conn: sqlite3.Connection, record: records.RunRecord, state: records.RunState) -> None:
    """A row of `runs` from what `run.json` and `state.json` hold."""
    values: dict[str, object] = {
        **msgspec.structs.asdict(record),
        **msgspec.structs.asdict(state),
        "spec": bytes(record.spec).decode(),
        "folder": f"runs/{record.id}",
        "last_step": 0,
    }
    marks = ", ".join("?" * len(values))
    conn.execute(f"INSERT INTO runs ({', '.join(values)}) VALUES ({marks})", tuple(values.values()))


def insert_attempt(conn: sqlite3.Connection, run_id: str, n: int) -> None:
    """A row of `attempts`, unless it is there."""
    conn.execute(
        "INSERT OR IGNORE INTO attempts (run_id, n, journal, journal_offset) VALUES (?, ?, ?, 0)",
        (run_id, n, RunFolder(Path()).journal(n).as_posix()),
    )


def update_attempt(conn: sqlite3.Connection, run_id: str, n: int, **values: object) -> bool:
    """Sets columns; False when there is no such attempt."""
    sql = f"UPDATE attempts SET {assign(values)} WHERE run_id = ? AND n = ?"
    return conn.execute(sql, (*values.values(), run_id, n)).rowcount == 1


def insert_transition(conn: sqlite3.Connection, run_id: str, move: records.TransitionRecord) -> None:
    conn.execute(
        "INSERT INTO events (run_id, attempt, seq, type, step, at, data) VALUES (?, 0, ?, ?, ?, ?, ?)",
        (run_id, move.seq, move.type, move.data.get("step"), move.at, json.dumps(move.data, ensure_ascii=False)),
    )


def assign(values: dict[str, object]) -> str:
    """The SET list for these columns."""
    return ", ".join(f"{name} = ?" for name in values)
