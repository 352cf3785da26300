"""The run folders restore the database."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from runner.journal.states import Reason, State
from runner.store.rebuild import rebuild
from runner.store.store import Store
from tests.store.builders import batch, metrics, rows, seen, started, submission, trained, version, write_journal

TABLES = ("runs", "attempts", "metrics", "examples", "rollouts", "scores", "reward_versions", "checkpoints")
EVENTS = "SELECT run_id, attempt, seq, type, step, at, data, void FROM events ORDER BY run_id, attempt, seq"


def contents(store: Store) -> dict[str, list[tuple[object, ...]]]:
    found = {table: rows(store, f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in TABLES}
    return found | {"events": rows(store, EVENTS)}


def start(store: Store, job: str = "countdown") -> str:
    run = store.submit(submission(job))
    store.set_handle(run, store.claim(run, host="here", boot_id="b1").attempt, {"pid": 42})
    store.transition(run, State.RUNNING)
    return run


def test_the_rebuilt_database_has_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "runner.db"
    with Store.open(path) as store:
        store.submit(submission("countdown"))
        run = start(store)
        write_journal(store, run, trained(last=3)[:-1])
        store.ingest(run)
        store.end_attempt(run, 1, "lost", None)
        store.transition(run, State.QUEUED, Reason.LOST, "retry 1 of 2")
        assert store.claim(run).attempt == 2
        store.transition(run, State.RUNNING)
        written = [started(2, resumed_step=2), version(1, "active", 0), seen(), batch(3), metrics(3)]
        write_journal(store, run, written, attempt=2)
        store.ingest(run)
        store.end_attempt(run, 2, "finished", 0)
        store.transition(run, State.SUCCEEDED, Reason.FINISHED, "step 3 of 3")
        store.set_digest(run, "abc", "")
        held = start(store, "gsm8k")
        store.want(held, "stop")
        store.transition(held, State.HELD, Reason.STOPPED)
        store.submit(submission("waits", priority=4))
        before = contents(store)
    assert len(before["rollouts"]) == 8
    done = rebuild(path)
    assert (done.runs, done.problems) == (4, [])
    with Store.open(path) as store:
        assert contents(store) == before
        assert store.submit(submission("countdown")) == "countdown-3"


def test_the_old_database_is_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "runner.db"
    with Store.open(path) as store:
        store.submit(submission())
    path.write_bytes(b"garbage" * 1000)
    done = rebuild(path)
    assert done.old is not None and done.old.read_bytes() == b"garbage" * 1000
    with Store.open(path) as store:
        assert store.run("countdown-1").state is State.QUEUED
    assert sorted(found.name for found in tmp_path.iterdir()) == ["runner.db", done.old.name, "runs"]


def test_a_run_that_was_live_stays_live_for_the_queue_to_look_after(tmp_path: Path) -> None:
    path = tmp_path / "runner.db"
    with Store.open(path) as store:
        run = start(store)
    rebuild(path)
    with Store.open(path) as store:
        assert store.run(run).state is State.RUNNING
        assert store.attempts(run)[0].handle == {"pid": 42}


def test_without_its_state_file_a_run_that_had_begun_is_held_and_another_is_queued(tmp_path: Path) -> None:
    path = tmp_path / "runner.db"
    with Store.open(path) as store:
        begun, waits = start(store, "begun"), store.submit(submission("waits"))
        write_journal(store, begun, trained(last=1))
        for run in (begun, waits):
            store.folder(store.run(run)).state_json.unlink()
    rebuild(path)
    with Store.open(path) as store:
        assert (store.run(begun).state, store.run(begun).reason) == (State.HELD, Reason.LOST)
        assert store.run(begun).last_step == 1
        assert store.run(waits).state is State.QUEUED


def test_two_runs_that_claim_one_place_leave_it_to_the_newer(tmp_path: Path) -> None:
    path = tmp_path / "runner.db"
    with Store.open(path) as store:
        store.submit(submission())
        older = store.folder(store.run("countdown-1")).state_json
        pending = older.read_bytes()
        store.submit(submission())
        older.write_bytes(pending)
    rebuild(path)
    with Store.open(path) as store:
        assert (store.run("countdown-1").state, store.run("countdown-2").state) == (State.HELD, State.QUEUED)


def test_a_folder_that_can_not_be_restored_is_named_and_the_rest_is(tmp_path: Path) -> None:
    path = tmp_path / "runner.db"
    with Store.open(path) as store:
        run = store.submit(submission())
        journal = write_journal(store, run, [started(), seen()])
    with journal.open("ab") as file:
        file.write(b"not an event\n")
    shutil.copytree(tmp_path / "runs" / run, tmp_path / "runs" / "copy")
    (tmp_path / "runs" / "empty").mkdir()
    done = rebuild(path)
    assert done.runs == 1
    copy, empty, broken = done.problems
    assert copy.endswith("copy: holds run countdown-1; a copy? rename it to restore it")
    assert empty.endswith("empty: no readable run.json")
    assert "not an event this runner knows" in broken
    with Store.open(path) as store:
        assert rows(store, "SELECT count(*) FROM examples") == [(1,)]


def test_a_state_file_cut_short_counts_as_missing(tmp_path: Path) -> None:
    path = tmp_path / "runner.db"
    with Store.open(path) as store:
        run = store.submit(submission())
        file = store.folder(store.run(run)).state_json
        assert json.loads(file.read_text())["run"]["state"] == "queued"
        file.write_bytes(file.read_bytes()[:40])
    rebuild(path)
    with Store.open(path) as store:
        assert store.run(run).state is State.QUEUED


def test_the_folder_of_a_submission_that_was_cut_off_does_not_stand_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "runner.db"
    with Store.open(path) as store:
        run = start(store)
    record = json.loads((tmp_path / f"runs/{run}/run.json").read_text())
    cut_off = tmp_path / "runs/countdown-9"
    cut_off.mkdir()
    (cut_off / "run.json").write_text(
        json.dumps({**record, "id": "countdown-9", "created_at": record["created_at"] + 1})
    )
    (tmp_path / f"runs/{run}/attempts/0001").mkdir(parents=True)
    made = rebuild(path)
    assert made.runs == 1 and "countdown-9: left by a submission that was cut off" in made.problems[0]
    with Store.open(path) as store:
        assert rows(store, "SELECT id FROM runs") == [(run,)]
