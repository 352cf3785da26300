"""Tables, views and migrations, and how a connection to them is opened.

A row of `runs` and `attempts` is state: written by the verbs of `Store`. All other run rows are what the journals say
and are written by ingest alone. The database allows one live and one pending run of a job for each backend.

WAL has a bug in SQLite before 3.51.3 that can corrupt a database with several writers; sqlite-utils takes pysqlite3,
which brings its own SQLite, wherever that is installed.
"""

from __future__ import annotations

import time
from pathlib import Path

from sqlite_utils import Database, Migrations
from sqlite_utils.utils import sqlite3  # pyright: ignore[reportPrivateImportUsage]  # pysqlite3 where there is one

from runner.store.errors import DamagedDatabase, DatabaseUnfit

# Of the library in use, which isn't the `sqlite3` of Python's own that connections are annotated with.
IntegrityError = sqlite3.IntegrityError
OperationalError = sqlite3.OperationalError
DatabaseError = sqlite3.DatabaseError
"""All of them."""

APPLICATION_ID = 0x47525055
BUSY_MS = 10_000

_TABLES = """
CREATE TABLE jobs (
    name TEXT PRIMARY KEY,
    path TEXT NOT NULL,
    revision TEXT,
    state TEXT NOT NULL,
    errors TEXT NOT NULL CHECK (json_valid(errors)),
    seen_at REAL NOT NULL
) STRICT;

CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,
    job TEXT NOT NULL,
    revision TEXT NOT NULL,
    backend TEXT NOT NULL,
    emulated INTEGER NOT NULL CHECK (emulated IN (0, 1)),
    parent TEXT,
    priority INTEGER NOT NULL,
    want TEXT NOT NULL CHECK (want IN ('run', 'stop', 'cancel', 'delete')),
    state TEXT NOT NULL CHECK (state IN ('queued', 'starting', 'running', 'held',
        'succeeded', 'failed', 'cancelled', 'timed_out', 'superseded')),
    reason TEXT,
    detail TEXT NOT NULL,
    error TEXT,
    folder TEXT NOT NULL,
    spec TEXT NOT NULL CHECK (json_valid(spec)),
    digest TEXT,
    digest_note TEXT NOT NULL,
    last_step INTEGER NOT NULL,
    total_steps INTEGER NOT NULL,
    created_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL
) STRICT;
CREATE UNIQUE INDEX one_live ON runs (job, backend) WHERE state IN ('starting', 'running');
CREATE UNIQUE INDEX one_pending ON runs (job, backend) WHERE state = 'queued';
CREATE INDEX runs_job ON runs (job, number);
CREATE INDEX runs_state ON runs (state, number);

CREATE TABLE attempts (
    run_id TEXT NOT NULL REFERENCES runs,
    n INTEGER NOT NULL CHECK (n >= 1),
    handle TEXT CHECK (handle IS NULL OR json_valid(handle)),
    host TEXT,
    boot_id TEXT,
    resumed_step INTEGER,
    journal TEXT NOT NULL,
    journal_offset INTEGER NOT NULL,
    outcome TEXT,
    exit_code INTEGER,
    started_at REAL,
    ended_at REAL,
    PRIMARY KEY (run_id, n)
) STRICT;

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL REFERENCES runs,
    attempt INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    type TEXT NOT NULL,
    step INTEGER,
    at REAL NOT NULL,
    data TEXT,
    void INTEGER NOT NULL DEFAULT 0 CHECK (void IN (0, 1)),
    UNIQUE (run_id, attempt, seq)
) STRICT;
CREATE INDEX events_run ON events (run_id, id);

CREATE TABLE metrics (
    run_id TEXT NOT NULL REFERENCES runs,
    name TEXT NOT NULL,
    step INTEGER NOT NULL,
    value REAL,
    PRIMARY KEY (run_id, name, step)
) STRICT, WITHOUT ROWID;

CREATE TABLE examples (
    run_id TEXT NOT NULL REFERENCES runs,
    id INTEGER NOT NULL,
    prompt TEXT NOT NULL,
    columns TEXT NOT NULL,
    PRIMARY KEY (run_id, id)
) STRICT;

CREATE TABLE rollouts (
    id INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL REFERENCES runs,
    split TEXT NOT NULL CHECK (split IN ('train', 'eval')),
    step INTEGER NOT NULL,
    group_id INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    example_id INTEGER NOT NULL,
    completion TEXT NOT NULL,
    n_tokens INTEGER NOT NULL,
    finish_reason TEXT NOT NULL,
    reward REAL,
    advantage REAL NOT NULL,
    reward_version TEXT NOT NULL,
    UNIQUE (run_id, split, step, group_id, idx)
) STRICT;
CREATE INDEX rollouts_reward ON rollouts (run_id, split, reward, id);

CREATE TABLE scores (
    rollout_id INTEGER NOT NULL REFERENCES rollouts ON DELETE CASCADE,
    name TEXT NOT NULL,
    value REAL,
    outcome TEXT NOT NULL,
    reason TEXT,
    error TEXT,
    output TEXT,
    seconds REAL NOT NULL,
    PRIMARY KEY (rollout_id, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX scores_logged ON scores (rollout_id, name) WHERE error IS NOT NULL OR output IS NOT NULL;

CREATE TABLE reward_versions (
    run_id TEXT NOT NULL REFERENCES runs,
    version INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    source TEXT,
    state TEXT NOT NULL CHECK (state IN ('staged', 'active', 'retired', 'rejected')),
    first_step INTEGER,
    error TEXT,
    PRIMARY KEY (run_id, sha256)
) STRICT;

CREATE TABLE checkpoints (
    run_id TEXT NOT NULL REFERENCES runs,
    step INTEGER NOT NULL,
    path TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    kept INTEGER NOT NULL CHECK (kept IN (0, 1)),
    weights TEXT NOT NULL,
    PRIMARY KEY (run_id, step)
) STRICT;
"""

_VIEWS = """
CREATE VIEW completions AS
    SELECT r.id, r.run_id, r.split, r.step, r.group_id, r.idx, r.example_id, e.prompt, r.completion,
        (SELECT json_group_object(s.name, s.value) FROM scores s WHERE s.rollout_id = r.id) AS rewards,
        r.reward, r.advantage, r.n_tokens, r.finish_reason, r.reward_version
    FROM rollouts r LEFT JOIN examples e ON e.run_id = r.run_id AND e.id = r.example_id;

CREATE VIEW reward_logs AS
    SELECT r.run_id, r.step, r.split, s.name, r.reward_version AS version, s.rollout_id, s.outcome, s.error, s.output
    FROM scores s JOIN rollouts r ON r.id = s.rollout_id
    WHERE s.error IS NOT NULL OR s.output IS NOT NULL;

CREATE VIEW transitions AS
    SELECT id, run_id, seq, at, data ->> '$.from' AS from_state, data ->> '$.to' AS to_state,
        data ->> '$.reason' AS reason, data ->> '$.detail' AS detail
    FROM events WHERE attempt = 0 AND type = 'transition';

CREATE VIEW alerts AS
    SELECT id, run_id, attempt, step, at, data ->> '$.code' AS code, data ->> '$.message' AS message
    FROM events WHERE type = 'alert' AND void = 0;
"""

_LOOKUPS = """
CREATE INDEX rollouts_example ON rollouts (run_id, split, example_id, step, reward);
CREATE INDEX scores_failed ON scores (rollout_id) WHERE outcome NOT IN ('ok', 'none');
CREATE INDEX events_type ON events (run_id, type, id);
"""

_SHAPES = {
    "sqlite_autoindex_rollouts_1": "1000000 100000 50000 1000 8 1",
    "rollouts_reward": "1000000 100000 50000 500 1",
    "rollouts_example": "1000000 100000 50000 200 8 4",
}
"""Index of `rollouts` → rows in all, and with the first column the same, the first two, and so on: how a large store
looks. Without it SQLite takes every run for a handful of rows and chooses indexes accordingly; with ANALYZE plans would
depend on when it was last run."""

migrations = Migrations("runner")


KNOWN = frozenset({"m001_initial", "m002_lookups"})
"""Names of the migrations below; a database with any other was made by a newer runner."""


@migrations()
def m001_initial(db: Database) -> None:
    _execute(db, f"{_TABLES}{_VIEWS}")
    db.conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")


@migrations()
def m002_lookups(db: Database) -> None:
    """What people look things up by: the completions of a prompt, the calls that failed, the events of a kind."""
    _execute(db, _LOOKUPS)
    db.conn.execute("ANALYZE sqlite_schema")  # makes the table
    rows = [("rollouts", index, shape) for index, shape in _SHAPES.items()]
    db.conn.executemany("INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (?, ?, ?)", rows)
    db.conn.execute("ANALYZE sqlite_schema")  # reads it


def _execute(db: Database, statements: str) -> None:
    for statement in statements.split(";"):
        if statement.strip():
            db.conn.execute(statement)


def open_database(path: Path) -> Database:
    """Opens for writing, creating or migrating what is there. Raises StoreError for a file that isn't ours to write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    db = _connect(sqlite3.connect(str(path), timeout=BUSY_MS / 1000, isolation_level=None))
    try:
        _refuse_foreign(db, path)
        _enter_wal(db)
        db.conn.execute("PRAGMA synchronous = FULL")
        db.conn.execute("PRAGMA foreign_keys = ON")
        db.conn.execute(f"PRAGMA journal_size_limit = {64 << 20}")
        if migrations.pending(db):
            _migrate(db)
    except BaseException as error:
        db.close()
        if type(error) is DatabaseError:  # its subclasses are about what was asked, not about the file
            raise _damaged(path, error) from error
        raise
    return db


def copy_database(path: Path, target: Path) -> None:
    """A copy that holds together, while others write. Raises OperationalError, as for a full disk."""
    conn = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY_MS / 1000, isolation_level=None)
    try:
        conn.execute("VACUUM INTO ?", (str(target),))
    finally:
        conn.close()


def open_read_only(path: Path) -> Database:
    """Opens a database that exists, for reading. Raises StoreError when there is none, or one this code can't read."""
    if not path.exists():
        raise DatabaseUnfit("missing", f"{path}: no database here; the first `runner run` or `emulate` makes it")
    uri = f"{path.resolve().as_uri()}?mode=ro"
    # Web handlers may run in one thread and close in another; they never use a connection at the same time.
    conn = sqlite3.connect(uri, uri=True, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
    db = _connect(conn)
    try:
        db.conn.execute("PRAGMA query_only = ON")
        _refuse_foreign(db, path)
        if migrations.pending(db):
            raise DatabaseUnfit("older", f"{path}: made by an older runner; `runner ls` brings it up to date")
    except BaseException:
        db.close()
        raise
    return db


def _damaged(path: Path, error: Exception) -> DamagedDatabase:
    return DamagedDatabase(f"{path}: {error}; `runner db rebuild` restores it from the run folders")


def _connect(conn: sqlite3.Connection) -> Database:
    conn.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    return Database(conn, execute_plugins=False, recursive_triggers=False)


def _refuse_foreign(db: Database, path: Path) -> None:
    try:
        tables = db.conn.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        application_id = db.conn.execute("PRAGMA application_id").fetchone()[0]  # second: it comes with the tables
    except sqlite3.DatabaseError as error:
        raise _damaged(path, error) from error
    if tables and application_id != APPLICATION_ID:
        raise DatabaseUnfit("foreign", f"{path}: a SQLite database of another program; move it away")
    newer = sorted({migration.name for migration in migrations.applied(db)} - KNOWN)
    if newer:
        raise DatabaseUnfit(
            "newer",
            f"{path}: made by a newer runner ({', '.join(newer)}); upgrade this one, "
            "or move the file away and `runner db rebuild`",
        )


def _enter_wal(db: Database) -> None:
    """Switches once; SQLite answers a switch that meets another opener at once with busy, without waiting."""
    deadline = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            db.conn.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _migrate(db: Database) -> None:
    """All pending ones in one transaction that begins as a writer: of two openers one finds it done."""
    db.conn.execute("BEGIN IMMEDIATE")
    try:
        migrations.apply(db)
        db.conn.execute("COMMIT")
    except BaseException:
        if db.conn.in_transaction:
            db.conn.execute("ROLLBACK")
        raise
