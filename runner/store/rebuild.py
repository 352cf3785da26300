"""Restores the database from the run folders. `jobs` comes back with the next scan.

A run that was live is restored as live: whoever looks at it next finds its lock free and concludes it.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from runner.journal.failpoints import failpoint
from runner.journal.folder import RunFolder
from runner.journal.states import Reason, State
from runner.store import records
from runner.store.errors import JournalError
from runner.store.inserts import insert_attempt, insert_run, insert_transition, update_attempt
from runner.store.store import Store

_LOST = records.RunState(state=State.HELD, reason=Reason.LOST, detail="restored from its folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    runs: int
    events: int
    problems: list[str]
    """What could not be restored, and why; the rest was."""
    old: Path | None
    """Where the database that was there has gone."""


def rebuild(path: Path) -> Rebuilt:
    """Makes `path` anew from the folders in `runs/` beside it. No other process may have it open.

    The new file takes the place of the old one only when it is complete. `is_due` tells when that was cut off.
    """
    part = _part(path)
    _unlink(part)
    with Store.open(part) as store:
        problems: list[str] = []
        found = _run_records(path.parent / "runs", problems)
        for record in reversed(found):  # of two runs that claim a place in the queue, the newer one has it
            _restore(store, record)
        events = sum(_ingest(store, record.id, problems) for record in found)
    old = _move_aside(path)
    failpoint("store.rebuilt")
    part.replace(path)
    return Rebuilt(runs=len(found), events=events, problems=problems, old=old)


def is_due(path: Path) -> bool:
    """Whether a rebuild of `path` was cut off, or the database of the runs that are there is gone."""
    return _part(path).exists() or (not path.exists() and any((path.parent / "runs").glob("*/run.json")))


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.rebuild")


def _run_records(runs: Path, problems: list[str]) -> list[records.RunRecord]:
    """In the order of submission."""
    found: list[records.RunRecord] = []
    for folder in sorted(runs.glob("*/")):
        record = records.read(RunFolder(folder).run_json, records.RunRecord)
        if record is None:
            problems.append(f"{folder}: no readable run.json")
        elif record.id != folder.name:
            problems.append(f"{folder}: holds run {record.id}; a copy? rename it to restore it")
        else:
            found.append(record)
    return _without_aborted(sorted(found, key=lambda record: record.number), runs, problems)


def _without_aborted(found: list[records.RunRecord], runs: Path, problems: list[str]) -> list[records.RunRecord]:
    """A submission that was killed before its commit has left a folder, and the next one has taken its number: that one
    is the run."""
    kept: dict[int, records.RunRecord] = {}
    for record in sorted(found, key=lambda record: (bool(RunFolder(runs / record.id).attempts()), record.created_at)):
        if record.number in kept:
            problems.append(
                f"{runs / kept[record.number].id}: left by a submission that was cut off; it can be deleted"
            )
        kept[record.number] = record
    return [kept[number] for number in sorted(kept)]


def _restore(store: Store, record: records.RunRecord) -> None:
    folder = RunFolder(store.path.parent / "runs" / record.id)
    known = records.read(folder.state_json, records.StateRecord)
    if known is None:
        state = _LOST if folder.attempts() else records.RunState(state=State.QUEUED, reason=Reason.WAITING)
        known = records.StateRecord(run=state, attempts=[], transitions=[])
    with store.writing() as conn:
        insert_run(conn, record, _LOST if _place_taken(store, record, known.run.state) else known.run)
        for attempt in known.attempts:
            values = {name: getattr(attempt, name) for name in attempt.__struct_fields__ if name != "n"}
            handle = None if attempt.handle is None else json.dumps(attempt.handle)
            insert_attempt(conn, record.id, attempt.n)
            update_attempt(conn, record.id, attempt.n, **values | {"handle": handle})
        for move in known.transitions:
            insert_transition(conn, record.id, move)


def _place_taken(store: Store, record: records.RunRecord, state: State) -> bool:
    if state.is_final or state is State.HELD:
        return False
    same_place = (State.STARTING, State.RUNNING) if state.is_live else (State.QUEUED,)
    return store.sibling(record.job, record.backend, same_place) is not None


def _ingest(store: Store, run_id: str, problems: list[str]) -> int:
    try:
        return store.ingest(run_id)
    except JournalError as error:
        problems.append(str(error))
        return 0


def _move_aside(path: Path) -> Path | None:
    if not path.exists():
        return None
    old = path.with_name(f"{path.name}.{time.strftime('%Y%m%d-%H%M%S')}.old")
    for suffix in ("-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.replace(old.with_name(old.name + suffix))
    return old


def _unlink(path: Path) -> None:
    for suffix in ("-wal", "-shm", ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
