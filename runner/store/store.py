"""The store: every write of the database is a method here, in one BEGIN IMMEDIATE transaction.

Any local process may write. Waiting for another writer is SQLite's busy timeout; commits are synchronous=FULL, for
state has to survive power loss and ingest commits too seldom to matter. Reads are in `runner.store.queries`.
"""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec
from sqlite_utils import Database

from runner.journal.failpoints import failpoint
from runner.journal.folder import RunFolder
from runner.journal.states import STATE_OF, Reason, State
from runner.store import ingest, records, submission
from runner.store.errors import IllegalTransition, SlotTaken, StoreError, StoreUnavailable, UnknownRun
from runner.store.inserts import assign, insert_attempt, insert_run, insert_transition, update_attempt
from runner.store.rows import AttemptRow, Claim, JobRow, RunRow, Want, columns, fetch
from runner.store.schema import DatabaseError, OperationalError, open_database, open_read_only
from runner.store.submission import Submission

Row = TypeVar("Row")

ALLOWED: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.STARTING, State.CANCELLED, State.SUPERSEDED, State.HELD}),
    State.STARTING: frozenset({State.RUNNING, State.QUEUED, State.FAILED, State.CANCELLED, State.HELD}),
    State.RUNNING: frozenset(
        {State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMED_OUT, State.QUEUED, State.HELD}
    ),
    State.HELD: frozenset({State.QUEUED, State.CANCELLED, State.HELD}),
}
"""Where a run may go from each state; a final state is in no key."""

QUEUE_ORDER = (
    "priority DESC, (SELECT min(number) FROM runs AS r WHERE r.job = runs.job AND r.backend = runs.backend "
    "AND r.number <= runs.number AND r.number > (SELECT coalesce(max(number), 0) FROM runs AS b "
    "WHERE b.job = runs.job AND b.backend = runs.backend AND b.number < runs.number AND b.state <> 'superseded'))"
)
"""Higher priority first, then the order of submission; a run has the place of the one that it superseded."""


class Store:
    """One connection, for one thread. Usable as a context manager.

    Every method that writes raises StoreUnavailable when the disk is full or the database is locked for too long.
    """

    def __init__(self, db: Database, path: Path, *, writable: bool) -> None:
        self.db = db
        self.path = path
        self._writable = writable

    @classmethod
    def open(cls, path: Path) -> Store:
        """Opens for writing; makes or migrates the database. Raises StoreError for one that a newer runner made."""
        return cls(open_database(path), path, writable=True)

    @classmethod
    def read_only(cls, path: Path) -> Store:
        """Opens for reading; never creates or changes anything. Raises StoreError when there is no database."""
        return cls(open_read_only(path), path, writable=False)

    def close(self) -> None:
        self.db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def is_sound(self) -> bool:
        """Whether SQLite finds no damage in the file. Takes as long as reading it."""
        try:
            return self.db.conn.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
        except DatabaseError:
            return False

    # Reading

    def fetch(self, kind: type[Row], sql: str, params: Sequence[object] = ()) -> list[Row]:
        """Rows of a SELECT whose columns are the fields of `kind`."""
        return fetch(self.db.conn, kind, sql, params)

    def run(self, run_id: str) -> RunRow:
        """The run with exactly this id. Raises UnknownRun."""
        rows = self.fetch(RunRow, f"SELECT {columns(RunRow)} FROM runs WHERE id = ?", (run_id,))
        if not rows:
            raise UnknownRun(f"no run {run_id!r}; `runner ls` shows the runs there are")
        return rows[0]

    def attempts(self, run_id: str) -> list[AttemptRow]:
        """The run's attempts, in order."""
        return self.fetch(
            AttemptRow, f"SELECT {columns(AttemptRow)} FROM attempts WHERE run_id = ? ORDER BY n", (run_id,)
        )

    def folder(self, run: RunRow) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.path.parent / run.folder)

    # Writing

    @contextmanager
    def writing(self) -> Generator[sqlite3.Connection]:
        """One transaction that begins as a writer; for this room only. Raises StoreUnavailable."""
        if not self._writable:
            raise StoreError(f"{self.path}: opened for reading only")
        conn = self.db.conn
        try:
            conn.execute("BEGIN IMMEDIATE")
            yield conn
            conn.execute("COMMIT")
            failpoint("store.committed")
        except OperationalError as error:
            raise StoreUnavailable(f"{self.path}: nothing was written: {error}") from error
        finally:
            if conn.in_transaction:  # on a full disk SQLite has rolled back by itself
                conn.execute("ROLLBACK")

    def submit(self, new: Submission) -> str:
        """Puts a run in the queue and makes its folder; gives its id.

        A pending run of the same job and backend is superseded: the newest wins. Nobody can claim a run before its
        folder has been filled.
        """
        return self.submit_all([new])[0]

    def submit_all(self, new: Sequence[Submission]) -> list[str]:
        """As `submit`, all of them or none: of a submission that fails no folder is left."""
        made: list[RunFolder] = []
        try:
            with self.writing() as conn:
                for item in new:
                    made.append(submission.next_folder(conn, item.job, self.path.parent / "runs"))
                    self._enqueue(conn, item, made[-1])
                submission.fill(new, made)
                failpoint("store.submit")
        except BaseException:
            self._remove_unknown(made)
            raise
        return [folder.path.name for folder in made]

    def _remove_unknown(self, folders: Sequence[RunFolder]) -> None:
        """Not those of runs that are in the database: what failed may have come after the commit."""
        with suppress(DatabaseError):
            for folder in folders:
                if not self.db.conn.execute("SELECT 1 FROM runs WHERE id = ?", (folder.path.name,)).fetchone():
                    shutil.rmtree(folder.path, ignore_errors=True)

    def _enqueue(self, conn: sqlite3.Connection, new: Submission, folder: RunFolder) -> None:
        run_id = folder.path.name
        number: int = conn.execute("SELECT coalesce(max(number), 0) + 1 FROM runs").fetchone()[0]
        pending = self.sibling(new.job, new.backend, (State.QUEUED,))
        if pending:
            self._move(self.run(pending), State.SUPERSEDED, Reason.SUPERSEDED, f"by {run_id}")
        record = submission.record(run_id, number, new)
        state = records.RunState(state=State.QUEUED, reason=Reason.WAITING, priority=new.priority)
        came = records.TransitionRecord(seq=1, at=time.time(), data=_transition(None, state.state, state.reason, ""))
        insert_run(conn, record, state)
        insert_transition(conn, run_id, came)
        records.write(folder.run_json, record)
        records.write(folder.state_json, records.StateRecord(run=state, attempts=[], transitions=[came]))

    def claim(self, run_id: str, *, host: str | None = None, boot_id: str | None = None) -> Claim:
        """Takes a queued run to `starting` with a new attempt, or says what it waits for (kept as its detail, too).

        The attempt is written down before its process is made: a crash in between leaves one that never began.
        """
        with self.writing() as conn:
            run = self.run(run_id)
            if run.state is not State.QUEUED:
                return Claim(run=None, waiting=f"{run.id} is {run.state}")
            if run.want != "run":
                return Claim(run=None, waiting=f"{run.id} is to {run.want}")
            live = self.sibling(run.job, run.backend, (State.STARTING, State.RUNNING))
            if live:
                waiting = f"waiting for {live} to end"
                conn.execute("UPDATE runs SET detail = ? WHERE id = ?", (waiting, run.id))
                return Claim(run=None, waiting=waiting)
            n = max([attempt.n for attempt in self.attempts(run_id)] + self.folder(run).attempts(), default=0) + 1
            insert_attempt(conn, run_id, n)
            update_attempt(conn, run_id, n, host=host, boot_id=boot_id, started_at=time.time())
            self._move(run, State.STARTING, None, "")
            failpoint("store.claim")
            return Claim(run=self.run(run_id), attempt=n)

    def waiting_all(self, details: Mapping[str, str]) -> None:
        """Notes of queued runs what they wait for, as in `no GPU`. Nothing happens to a run that isn't queued."""
        sql = "UPDATE runs SET detail = ? WHERE id = ? AND state = 'queued'"
        with self.writing() as conn:
            conn.executemany(sql, [(detail, run_id) for run_id, detail in details.items()])

    def transition(
        self, run_id: str, state: State, reason: Reason | None = None, detail: str = "", error: str | None = None
    ) -> RunRow:
        """Moves a run to another state and records that it did.

        `held` and the final states need a reason, the one that leads there (`STATE_OF`). Raises IllegalTransition for a
        move that ALLOWED does not have, SlotTaken when the run would be queued beside a pending one of its job.
        """
        with self.writing():
            run = self.run(run_id)
            self._move(run, state, reason, detail, error)
            failpoint("store.transition")
            return self.run(run_id)

    def want(self, run_id: str, want: Want) -> None:
        """Records a wish; whoever looks after the run acts on it. Raises IllegalTransition for a run that has ended."""
        with self.writing() as conn:
            run = self.run(run_id)
            if run.state.is_final:
                raise IllegalTransition(f"{run_id} has ended ({run.state}); `runner rerun {run_id}` makes a new run")
            conn.execute("UPDATE runs SET want = ? WHERE id = ?", (want, run_id))
            self._mirror(run_id)

    def set_priority(self, run_id: str, priority: int) -> None:
        """Higher goes first."""
        self._update_run(run_id, priority=priority)

    def alert(self, run_id: str, code: str, message: str) -> None:
        """Records what a person should see of a run, where its trainer can't say it itself."""
        with self.writing():
            run = self.run(run_id)
            self._record(run_id, "alert", {"step": run.last_step, "code": code, "message": message})
            self._mirror(run_id)

    def set_digest(self, run_id: str, digest: str, note: str) -> None:
        """Stores what `runner.store.digest.digest` gave."""
        self._update_run(run_id, digest=digest, digest_note=note)

    def set_handle(self, run_id: str, n: int, handle: dict[str, Any] | None) -> None:
        """Notes who runs the attempt: its supervisor's pid and start time, and the boot."""
        with self.writing():
            self._update_attempt(run_id, n, handle=_json(handle))
            self._mirror(run_id)

    def end_attempt(
        self, run_id: str, n: int, outcome: str, exit_code: int | None = None, ended_at: float | None = None
    ) -> None:
        """Writes down how an attempt ended."""
        with self.writing():
            self._update_attempt(
                run_id, n, outcome=outcome, exit_code=exit_code, ended_at=time.time() if ended_at is None else ended_at
            )
            self._mirror(run_id)

    def ingest(self, run_id: str) -> int:
        """Makes rows of what the run's journals have gained; gives how many events that was.

        Attempts in order: a journal that exists proves that the process of the one before it is gone. So the list is
        made first and each file is then read to its end. Raises JournalError; earlier transactions are kept.
        """
        run = self.run(run_id)
        return sum(self._ingest_attempt(run, n, math.inf)[0] for n in self.folder(run).attempts())

    def catch_up(self, run_id: str, seconds: float) -> bool:
        """As `ingest`, for about so many seconds. Whether there was nothing left."""
        run, deadline = self.run(run_id), time.monotonic() + seconds
        return all(self._ingest_attempt(run, n, deadline)[1] for n in self.folder(run).attempts())

    def _ingest_attempt(self, run: RunRow, n: int, deadline: float) -> tuple[int, bool]:
        """How many events, and whether that was all. Reads outside the transaction and drops what it read if another
        ingester was faster."""
        path = self.folder(run).journal(n)
        total = 0
        while True:
            start = self._offset(run.id, n)
            chunk = ingest.read_chunk(path, start or 0)
            if not chunk.events and start is not None:
                return total, True
            if total and time.monotonic() > deadline:
                return total, False
            with self.writing() as conn:
                insert_attempt(conn, run.id, n)
                if self._offset(run.id, n) != (start or 0):
                    continue
                to = ingest.Target(conn, run.id, run.number, n, self.folder(run).rewards)
                for event in chunk.events:
                    ingest.insert(to, event)
                self._update_attempt(run.id, n, journal_offset=chunk.end)
                failpoint("store.ingest")
            total += len(chunk.events)

    def _offset(self, run_id: str, n: int) -> int | None:
        sql = "SELECT journal_offset FROM attempts WHERE run_id = ? AND n = ?"
        row = self.db.conn.execute(sql, (run_id, n)).fetchone()
        return None if row is None else int(row[0])

    def drop_checkpoint(self, run_id: str, step: int) -> None:
        """Notes that a checkpoint of an ended run is removed from the disk."""
        with self.writing() as conn:
            conn.execute("UPDATE checkpoints SET kept = 0 WHERE run_id = ? AND step = ?", (run_id, step))

    def put_jobs(self, jobs: Sequence[JobRow]) -> None:
        """Notes job files as the scan sees them now."""
        with self.writing() as conn:
            conn.executemany(
                "INSERT OR REPLACE INTO jobs (name, path, revision, state, errors, seen_at) VALUES (?, ?, ?, ?, ?, ?)",
                [(job.name, job.path, job.revision, job.state, json.dumps(job.errors), job.seen_at) for job in jobs],
            )

    def remove_job(self, name: str) -> None:
        """Forgets a job file; its runs stay."""
        with self.writing() as conn:
            conn.execute("DELETE FROM jobs WHERE name = ?", (name,))

    # Inside a transaction

    def _move(self, run: RunRow, to: State, reason: Reason | None, detail: str, error: str | None = None) -> None:
        """The one place where a state changes."""
        _check_move(run, to, reason)
        pending = self.sibling(run.job, run.backend, (State.QUEUED,)) if to is State.QUEUED else None
        if pending:
            raise SlotTaken(f"{run.id} can't be queued: {pending} is pending for {run.job}; cancel that one first")
        now = time.time()
        self.db.conn.execute(
            "UPDATE runs SET state = ?, reason = ?, detail = ?, error = ?, want = ?, "
            "started_at = coalesce(started_at, (SELECT min(started_at) FROM attempts WHERE ? AND run_id = runs.id), "
            "?), ended_at = ? WHERE id = ?",
            (
                to, reason, detail, error,
                "run" if run.state is State.HELD and to is State.QUEUED else run.want,
                to is State.RUNNING,  # its beginning may be read long after it was
                now if to is State.RUNNING else None,
                now if to.is_final else None,
                run.id,
            ),
        )  # fmt: skip
        self._record_transition(run.id, run.state, to, reason, detail)
        self._mirror(run.id)

    def _record_transition(
        self, run_id: str, old: State | None, new: State, reason: Reason | None, detail: str
    ) -> None:
        self._record(run_id, "transition", _transition(old, new, reason, detail))

    def _record(self, run_id: str, kind: str, data: dict[str, Any]) -> None:
        """An event of the store's own, as attempt 0."""
        conn = self.db.conn
        sql = "SELECT coalesce(max(seq), 0) + 1 FROM events WHERE run_id = ? AND attempt = 0"
        seq: int = conn.execute(sql, (run_id,)).fetchone()[0]
        insert_transition(conn, run_id, records.TransitionRecord(seq=seq, at=time.time(), data=data, type=kind))

    def sibling(self, job: str, backend: str, states: Sequence[State]) -> str | None:
        """Id of the job's run in one of these states; the schema allows one."""
        marks = ", ".join("?" * len(states))
        # The plus keeps SQLite from the index by state: it would go through the whole queue.
        sql = f"SELECT id FROM runs WHERE job = ? AND backend = ? AND +state IN ({marks})"
        row = self.db.conn.execute(sql, (job, backend, *states)).fetchone()
        return None if row is None else str(row[0])

    def _update_run(self, run_id: str, **values: object) -> None:
        with self.writing() as conn:
            self.run(run_id)
            conn.execute(f"UPDATE runs SET {assign(values)} WHERE id = ?", (*values.values(), run_id))
            self._mirror(run_id)

    def _update_attempt(self, run_id: str, n: int, **values: object) -> None:
        if not update_attempt(self.db.conn, run_id, n, **values):
            raise StoreError(f"{run_id} has no attempt {n}")

    def _mirror(self, run_id: str) -> None:
        """Writes `state.json`, under the write lock, so that an older state never replaces a newer one."""
        run = self.run(run_id)
        sql = "SELECT seq, at, data, type FROM events WHERE run_id = ? AND attempt = 0 ORDER BY seq"
        moves = self.db.conn.execute(sql, (run_id,)).fetchall()
        record = records.StateRecord(
            run=_convert(run, records.RunState),
            attempts=[_convert(attempt, records.AttemptState) for attempt in self.attempts(run_id)],
            transitions=[
                records.TransitionRecord(seq=seq, at=at, data=json.loads(data), type=kind)
                for seq, at, data, kind in moves
            ],
        )
        if self.folder(run).path.is_dir():
            records.write(self.folder(run).state_json, record)


def _check_move(run: RunRow, to: State, reason: Reason | None) -> None:
    if to not in ALLOWED.get(run.state, frozenset()):
        raise IllegalTransition(f"{run.id} is {run.state} and can't become {to}")
    if (to.is_final or to is State.HELD) and (reason is None or STATE_OF[reason] is not to):
        raise IllegalTransition(f"{run.id}: the reason {reason or '(none)'} does not lead to {to}")


def _transition(old: State | None, new: State, reason: Reason | None, detail: str) -> dict[str, Any]:
    return {"from": old, "to": new, "reason": reason, "detail": detail}


def _convert(row: RunRow | AttemptRow, kind: type[records.Record]) -> records.Record:
    return msgspec.convert(row, kind, from_attributes=True)


def _json(value: object) -> str | None:
    return None if value is None else json.dumps(value)
