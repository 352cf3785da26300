"""The file: who may open it, what it refuses, and that any SQLite reads it."""

from __future__ import annotations

import multiprocessing
import sqlite3 as pythons_own
import subprocess
import sys
from pathlib import Path

import pytest

from runner.store.errors import StoreError, StoreUnavailable
from runner.store.schema import APPLICATION_ID, IntegrityError
from runner.store.store import Store
from tests.store.builders import rows, submission, trained, write_journal

SPAWN = multiprocessing.get_context("spawn")


def test_a_new_database_is_in_wal_mode_and_carries_our_application_id(store: Store) -> None:
    assert rows(store, "PRAGMA journal_mode") == [("wal",)]
    assert rows(store, "PRAGMA application_id") == [(APPLICATION_ID,)]
    assert rows(store, "SELECT name FROM _sqlite_migrations") == [("m001_initial",), ("m002_lookups",)]
    assert rows(store, "PRAGMA synchronous") == [(2,)]


def test_every_table_of_ours_is_strict(store: Store) -> None:
    loose = "SELECT name FROM pragma_table_list WHERE type = 'table' AND NOT strict AND name NOT LIKE '%sqlite_%'"
    assert rows(store, loose) == []


def open_once(path: Path) -> None:
    Store.open(path).close()


def test_processes_that_open_a_new_home_at_once_all_succeed(tmp_path: Path) -> None:
    path = tmp_path / "runner.db"
    openers = [SPAWN.Process(target=open_once, args=(path,)) for _ in range(4)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join(60)
    assert [opener.exitcode for opener in openers] == [0, 0, 0, 0]


def test_a_database_of_a_newer_runner_is_refused_for_writing_and_for_reading(tmp_path: Path) -> None:
    path = tmp_path / "runner.db"
    with Store.open(path) as store:
        store.db.conn.execute("INSERT INTO _sqlite_migrations VALUES (99, 'runner', 'm099_later', 'then')")
    with pytest.raises(StoreError, match=r"runner\.db: made by a newer runner \(m099_later\); upgrade this one"):
        Store.open(path)
    with pytest.raises(StoreError, match="newer runner"):
        Store.read_only(path)


def test_a_database_of_an_older_runner_is_brought_up_to_date_when_it_is_opened_for_writing(tmp_path: Path) -> None:
    path = tmp_path / "runner.db"
    with Store.open(path) as store:
        run = store.submit(submission())
        for index in ("rollouts_example", "scores_failed", "events_type"):  # what m002 brought
            store.db.conn.execute(f"DROP INDEX {index}")
        store.db.conn.execute("DELETE FROM sqlite_stat1")
        store.db.conn.execute("DELETE FROM _sqlite_migrations WHERE name = 'm002_lookups'")
    with pytest.raises(StoreError, match="made by an older runner; `runner ls` brings it up to date"):
        Store.read_only(path)
    with Store.open(path) as store:
        assert store.run(run).state == "queued"
        assert rows(store, "SELECT name FROM sqlite_master WHERE name = 'events_type'") == [("events_type",)]


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with pythons_own.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        Store.open(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "runner.db"
    path.write_bytes(b"garbage " * 1000)
    with pytest.raises(StoreError, match="file is not a database; `runner db rebuild`"):
        Store.open(path)


def test_reading_only_never_creates_a_database(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no database here"):
        Store.read_only(tmp_path / "runner.db")
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_store_reads_and_refuses_every_way_of_writing(store: Store) -> None:
    run = store.submit(submission())
    with Store.read_only(store.path) as reader:
        assert reader.run(run).id == "countdown-1"
        with pytest.raises(StoreError, match="reading only"):
            reader.submit(submission())
        with pytest.raises(Exception, match="readonly database"):
            reader.db.conn.execute("UPDATE runs SET detail = 'changed'")


def test_a_reader_sees_what_is_written_after_it_opened(store: Store) -> None:
    with Store.read_only(store.path) as reader:
        run = store.submit(submission())
        assert reader.run(run).state == "queued"


def test_pythons_own_sqlite_reads_the_tables_and_the_views(tmp_path: Path) -> None:
    path = tmp_path / "runner.db"
    with Store.open(path) as store:
        run = store.submit(submission())
        write_journal(store, run, trained(last=1))
        store.ingest(run)
    script = (
        "import sqlite3, sys\n"
        "conn = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True)\n"
        'print(conn.execute("SELECT step, prompt, completion, rewards, advantage FROM completions '
        "WHERE split = 'train'\").fetchone())\n"
        "print(conn.execute('SELECT from_state, to_state FROM transitions').fetchall())\n"
        "print(conn.execute('SELECT count(*) FROM alerts, reward_logs').fetchone())\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "(1, '2 and 3 make 5:', 'train 1 a', '{\"format\":1.0}', 0.5)",
        "[(None, 'queued')]",
        "(0,)",
    ]


@pytest.mark.parametrize(
    "change",
    ["state = 'walking'", "want = 'hope'", "emulated = 2", "spec = '{'", "number = NULL", "last_step = 'five'"],
)
def test_the_database_itself_refuses_values_that_mean_nothing(store: Store, change: str) -> None:
    store.submit(submission())
    with pytest.raises(IntegrityError):
        store.db.conn.execute(f"UPDATE runs SET {change}")


def test_the_database_itself_allows_one_live_and_one_pending_run_of_a_job_and_backend(store: Store) -> None:
    store.submit(submission())
    store.claim("countdown-1")
    store.submit(submission())
    with pytest.raises(IntegrityError, match="UNIQUE"):
        store.db.conn.execute("UPDATE runs SET state = 'running' WHERE id = 'countdown-2'")
    with pytest.raises(IntegrityError, match="UNIQUE"):
        store.db.conn.execute("UPDATE runs SET state = 'queued' WHERE id = 'countdown-1'")


def test_a_full_disk_takes_nothing_of_a_transaction_and_the_store_goes_on_when_there_is_room(small_disk: Path) -> None:
    with Store.open(small_disk / "runner.db") as store:
        run = store.submit(submission())
        write_journal(store, run, trained(last=3))
        ballast = small_disk / "ballast"
        with pytest.raises(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        with pytest.raises(StoreUnavailable, match=r"nothing was written: .*(full|No space)"):
            for _ in range(1000):
                store.want(run, "stop")
        with pytest.raises(StoreUnavailable, match="database or disk is full"):
            store.ingest(run)
        assert rows(store, "SELECT count(*) FROM rollouts") == [(0,)]
        ballast.unlink()
        assert store.ingest(run) == 13
        assert rows(store, "PRAGMA integrity_check") == [("ok",)]
