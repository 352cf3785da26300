"""Journals become rows exactly once, whatever is torn, racing or rewound."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from runner.journal import events
from runner.journal.log import Journal
from runner.store import ingest
from runner.store.errors import JournalError, UnknownRun
from runner.store.store import Store
from tests.store.builders import (
    batch,
    evaluation,
    metrics,
    rollout,
    rows,
    saved,
    score,
    seen,
    started,
    submission,
    trained,
    version,
    write_journal,
)

SPAWN = multiprocessing.get_context("spawn")
BASE = 1 << 32


@pytest.fixture
def run(store: Store) -> str:
    return store.submit(submission())


def test_every_kind_of_event_becomes_its_rows(store: Store, run: str) -> None:
    failed = score(None, "timeout", name="length", error="no answer within 1 s", output="thinking…")
    difference = events.Difference(field="lora", asked="rank 64", kind="not applicable", detail="all weights train")
    written: list[events.Event] = [
        started(),
        events.DifferencesFound(items=[difference]),
        version(1, "active", 0),
        seen(),
        batch(1, rollout("five", 1.5, score(1.0, reason="right"), failed)),
        metrics(1, kl=0.25),
        version(2, "rejected", sha="bad"),
        saved(1),
        saved(2),
        events.CheckpointRemoved(step=1),
        events.Alert(step=1, code="flat", message="all rewards are equal"),
        events.AttemptEnded(step=1, reason="finished", detail="step 1 of 1"),
    ]
    write_journal(store, run, written)
    assert store.ingest(run) == 12
    assert rows(store, "SELECT * FROM examples") == [(run, 7, "2 and 3 make 5:", '{"target":5}')]
    assert rows(store, "SELECT * FROM rollouts") == [
        (BASE + 1, run, "train", 1, 0, 0, 7, "five", 4, "eos", 1.5, 0.5, "v1")
    ]
    assert rows(store, "SELECT * FROM scores") == [
        (BASE + 1, "format", 1.0, "ok", "right", None, None, 0.25),
        (BASE + 1, "length", None, "timeout", None, "no answer within 1 s", "thinking…", 0.25),
    ]
    assert rows(store, "SELECT name, step, value FROM metrics") == [
        ("kl", 1, 0.25),
        ("reward", 1, 0.1),
        ("time/step", 1, 0.1),
    ]
    assert rows(store, "SELECT version, sha256, state, first_step FROM reward_versions") == [
        (1, "v1", "active", 0),
        (2, "bad", "rejected", None),
    ]
    assert rows(store, "SELECT step, path, kept, weights FROM checkpoints") == [
        (1, "checkpoints/step-000001", 0, "w1"),
        (2, "checkpoints/step-000002", 1, "w2"),
    ]
    assert rows(store, "SELECT step, code, message FROM alerts") == [(1, "flat", "all rewards are equal")]
    assert rows(store, "SELECT name, outcome, output FROM reward_logs") == [("length", "timeout", "thinking…")]
    assert store.run(run).last_step == 1


def test_events_keep_their_contents_except_bulk_ones(store: Store, run: str) -> None:
    write_journal(store, run, [started(), seen(), batch(4), metrics(4)])
    store.ingest(run)
    assert rows(store, "SELECT attempt, seq, type, step, data FROM events WHERE attempt > 0 ORDER BY id") == [
        (
            1, 1, "attempt_started", None,
            '{"attempt": 1, "resumed_step": null, "backend": "emulator", "emulated": true, "pid": 1001}',
        ),
        (1, 2, "examples_seen", None, None),
        (1, 3, "batch_scored", 4, None),
        (1, 4, "metrics_reported", 4, '{"step": 4, "metrics": {"reward": 0.4, "time/step": 0.4}}'),
    ]  # fmt: skip


def test_a_second_ingest_adds_nothing_and_a_later_one_adds_what_is_new(store: Store, run: str) -> None:
    path = write_journal(store, run, trained(last=2))
    assert store.ingest(run) == 11
    assert store.ingest(run) == 0
    later = Journal(path)
    later._seq = 11  # pyright: ignore[reportPrivateUsage]
    later.append(batch(3))
    later.close()
    assert store.ingest(run) == 1
    assert store.attempts(run)[0].journal_offset == path.stat().st_size


def test_a_torn_last_line_waits_until_it_is_whole(store: Store, run: str) -> None:
    path = write_journal(store, run, trained(last=1))
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert store.ingest(run) == 8
    assert store.ingest(run) == 0
    path.write_bytes(whole)
    assert store.ingest(run) == 1


@pytest.mark.parametrize("cut", range(0, 1200, 97))
def test_wherever_a_journal_is_cut_two_ingests_give_the_rows_of_one(store: Store, run: str, cut: int) -> None:
    path = write_journal(store, run, [seen(), batch(1), metrics(1), batch(2)])
    whole = path.read_bytes()
    assert len(whole) > 1200
    path.write_bytes(whole[:cut])
    first = store.ingest(run)
    path.write_bytes(whole)
    assert first + store.ingest(run) == 4
    assert rows(store, "SELECT seq FROM events WHERE attempt = 1 ORDER BY id") == [(1,), (2,), (3,), (4,)]
    assert rows(store, "SELECT step, idx FROM rollouts ORDER BY id") == [(1, 0), (1, 1), (2, 0), (2, 1)]


def test_a_broken_line_stops_ingest_before_it_and_is_named(store: Store, run: str) -> None:
    path = write_journal(store, run, [started(), seen()])
    offset = path.stat().st_size
    with path.open("ab") as file:
        file.write(b'{"type":"from_the_future"}\n')
    with pytest.raises(JournalError, match=rf"0001\.jsonl: byte {offset}: not an event this runner knows"):
        store.ingest(run)
    assert rows(store, "SELECT count(*) FROM examples") == [(1,)]


def test_a_line_that_contradicts_the_rows_is_named_and_leaves_nothing(store: Store, run: str) -> None:
    write_journal(store, run, [batch(1), batch(1)])
    with pytest.raises(JournalError, match=r"run countdown-1, attempt 1, event 2 \(batch_scored\): contradicts"):
        store.ingest(run)
    assert rows(store, "SELECT count(*) FROM rollouts") == [(0,)]


def test_an_attempt_found_on_the_disk_gets_its_row(store: Store, run: str) -> None:
    write_journal(store, run, [started()])
    store.ingest(run)
    (attempt,) = store.attempts(run)
    assert (attempt.n, attempt.journal, attempt.resumed_step) == (1, "journal/0001.jsonl", None)
    assert attempt.started_at is not None


def test_a_run_without_a_journal_has_nothing_to_ingest(store: Store, run: str) -> None:
    assert store.ingest(run) == 0
    with pytest.raises(UnknownRun):
        store.ingest("nope-1")


def test_a_long_journal_is_taken_in_bounded_transactions(
    store: Store, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_journal(store, run, [seen(), *[batch(step) for step in range(1, 40)]])
    assert len(ingest.read_chunk(path, 0).events) == 40
    monkeypatch.setattr(ingest, "CHUNK_BYTES", 2000)
    assert len(ingest.read_chunk(path, 0).events) < 10
    monkeypatch.setattr(ingest, "CHUNK_EVENTS", 3)
    assert len(ingest.read_chunk(path, 0).events) == 3
    assert store.ingest(run) == 40
    assert rows(store, "SELECT min(id), max(id), count(*) FROM rollouts") == [(BASE + 1, BASE + 78, 78)]


# Rewinding


def lost_after_step_3(store: Store, run: str) -> None:
    """Attempt 1 saved step 2, evaluated there, and was lost after step 3."""
    first: list[events.Event] = [started(), version(1, "active", 0), seen(), *evaluation(0)]
    first += [batch(1), metrics(1), batch(2), metrics(2), *evaluation(2), saved(2)]
    first += [version(1, "retired"), version(2, "active", 3), batch(3, version="v2"), metrics(3), saved(3)]
    first += [events.Alert(step=3, code="flat", message="all rewards are equal")]
    write_journal(store, run, first)
    store.ingest(run)


def test_resuming_takes_back_what_lies_behind_the_checkpoint_and_its_own_evaluation(store: Store, run: str) -> None:
    lost_after_step_3(store, run)
    assert rows(store, "SELECT count(*), max(step) FROM rollouts") == [(10, 3)]
    write_journal(store, run, [started(2, resumed_step=2)], attempt=2)
    store.ingest(run)
    assert rows(store, "SELECT DISTINCT split, step FROM rollouts ORDER BY split, step") == [
        ("eval", 0),
        ("train", 1),
        ("train", 2),
    ]
    assert rows(store, "SELECT count(*) FROM scores") == [(6,)]
    assert rows(store, "SELECT name, step FROM metrics WHERE name LIKE '%reward' ORDER BY name, step") == [
        ("eval/reward", 0),
        ("reward", 1),
        ("reward", 2),
    ]
    assert rows(store, "SELECT step FROM checkpoints") == [(2,)]
    assert rows(store, "SELECT sha256, state FROM reward_versions") == [("v1", "active")]
    assert rows(store, "SELECT count(*) FROM examples") == [(1,)]
    assert rows(store, "SELECT count(*) FROM alerts") == [(0,)]
    assert store.run(run).last_step == 2
    assert store.attempts(run)[1].resumed_step == 2


def test_events_behind_the_checkpoint_are_void_and_stay(store: Store, run: str) -> None:
    lost_after_step_3(store, run)
    write_journal(store, run, [started(2, resumed_step=2), batch(3), metrics(3)], attempt=2)
    store.ingest(run)
    void = "SELECT attempt, type, step FROM events WHERE void ORDER BY id"
    assert rows(store, void) == [
        (1, "metrics_reported", 2),
        (1, "version_changed", 3),
        (1, "batch_scored", 3),
        (1, "metrics_reported", 3),
        (1, "checkpoint_saved", 3),
        (1, "alert", 3),
    ]
    assert rows(store, "SELECT count(*) FROM rollouts WHERE step = 3") == [(2,)]


def test_starting_over_takes_back_everything_but_the_examples(store: Store, run: str) -> None:
    lost_after_step_3(store, run)
    write_journal(store, run, [started(2)], attempt=2)
    store.ingest(run)
    for table in ("rollouts", "scores", "metrics", "checkpoints", "reward_versions"):
        assert rows(store, f"SELECT count(*) FROM {table}") == [(0,)], table
    assert rows(store, "SELECT count(*) FROM examples") == [(1,)]
    assert store.run(run).last_step == 0


def test_a_version_that_came_back_by_rollback_is_live_again_after_rewinding_to_it(store: Store, run: str) -> None:
    switches = [version(1, "active", 0), version(1, "retired"), version(2, "active", 1)]
    back = [version(2, "retired"), version(1, "active", 2), version(1, "retired"), version(3, "active", 5)]
    write_journal(store, run, [started(), *switches, *back])
    write_journal(store, run, [started(2, resumed_step=3)], attempt=2)
    store.ingest(run)
    assert rows(store, "SELECT version, state, first_step FROM reward_versions ORDER BY version") == [
        (1, "active", 0),
        (2, "retired", 1),
    ]


def test_rewinding_one_run_leaves_the_others_alone(store: Store, run: str) -> None:
    other = store.submit(submission("gsm8k"))
    write_journal(store, other, trained(last=3))
    store.ingest(other)
    before = rows(store, "SELECT * FROM rollouts WHERE run_id = ?", other)
    lost_after_step_3(store, run)
    write_journal(store, run, [started(2)], attempt=2)
    store.ingest(run)
    assert rows(store, "SELECT * FROM rollouts WHERE run_id = ?", other) == before
    assert rows(store, "SELECT count(*) FROM events WHERE run_id = ? AND void", other) == [(0,)]


def test_ingesting_at_every_moment_of_two_attempts_gives_the_rows_of_ingesting_once(tmp_path: Path) -> None:
    attempts = [[*trained(last=3)[:-1]], [started(2, resumed_step=3), seen(), batch(4), metrics(4), saved(4)]]
    seen_rows: list[list[list[tuple[object, ...]]]] = []
    for often in (True, False):
        with Store.open(tmp_path / str(often) / "runner.db") as store:
            run = store.submit(submission())
            for n, written in enumerate(attempts, 1):
                journal = Journal(store.folder(store.run(run)).journal(n))
                for event in written:
                    journal.append(event)
                    if often:
                        store.ingest(run)
                journal.close()
            store.ingest(run)
            tables = ("rollouts", "scores", "metrics", "examples", "checkpoints", "reward_versions")
            seen_rows.append([rows(store, f"SELECT * FROM {table}") for table in tables])
    assert seen_rows[0] == seen_rows[1]
    assert len(seen_rows[0][0]) == 10


# Racing


def test_an_ingester_that_was_overtaken_between_reading_and_writing_adds_nothing(
    store: Store, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_journal(store, run, trained(last=2))
    read_chunk, overtaken = ingest.read_chunk, []

    def read_then_be_overtaken(path: Path, offset: int) -> ingest.Chunk:
        chunk = read_chunk(path, offset)
        monkeypatch.setattr(ingest, "read_chunk", read_chunk)
        with Store.open(store.path) as other:
            overtaken.append(other.ingest(run))
        return chunk

    monkeypatch.setattr(ingest, "read_chunk", read_then_be_overtaken)
    assert store.ingest(run) == 0
    assert overtaken == [11]
    assert rows(store, "SELECT count(*) FROM rollouts") == [(6,)]


def ingest_until_ended(path: Path, run: str, ready: Barrier, counted: multiprocessing.Queue[int]) -> None:
    ingest.CHUNK_EVENTS = 7
    total = 0
    with Store.open(path) as store:
        ready.wait(60)
        while not store.db.conn.execute("SELECT 1 FROM events WHERE type = 'attempt_ended'").fetchone():
            total += store.ingest(run)
        total += store.ingest(run)
    counted.put(total)


def test_three_racing_ingesters_give_every_row_once_while_the_journal_grows(store: Store, run: str) -> None:
    ready, counted = SPAWN.Barrier(4), SPAWN.Queue()
    racers = [SPAWN.Process(target=ingest_until_ended, args=(store.path, run, ready, counted)) for _ in range(3)]
    for racer in racers:
        racer.start()
    ready.wait(60)
    journal = Journal(store.folder(store.run(run)).journal(1))
    journal.append(seen())
    for step in range(1, 201):
        journal.append(batch(step))
        journal.append(metrics(step))
        time.sleep(0.001)
    journal.append(events.AttemptEnded(step=200, reason="finished"))
    totals = [counted.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join(60)
    assert sum(totals) == 402
    assert rows(store, "SELECT seq FROM events WHERE attempt = 1 ORDER BY id") == [(n,) for n in range(1, 403)]
    assert rows(store, "SELECT step, idx FROM rollouts ORDER BY id") == [(n // 2 + 1, n % 2) for n in range(400)]
    assert rows(store, "SELECT count(*) FROM scores") == [(400,)]


def test_a_long_journal_is_taken_in_by_and_by(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.store.ingest.CHUNK_EVENTS", 5)
    run = store.submit(submission())
    write_journal(store, run, trained(last=3))
    assert [store.catch_up(run, seconds=0.0) for _ in range(4)] == [False, False, True, True]
    assert rows(store, "SELECT count(*) FROM events WHERE attempt = 1") == [(13,)]
