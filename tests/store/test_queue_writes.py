"""The queue in the store: submit, claim, transitions, wishes, attempts."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from runner.journal.folder import RunFolder
from runner.journal.states import FINAL, STATE_OF, Reason, State
from runner.store import queries
from runner.store.errors import IllegalTransition, SlotTaken, StoreError, UnknownRun
from runner.store.rows import JobRow
from runner.store.store import Store
from tests.store.builders import rows, started, submission, write_journal

SPAWN = multiprocessing.get_context("spawn")
LEGAL = {
    ("queued", "starting"), ("queued", "cancelled"), ("queued", "superseded"), ("queued", "held"),
    ("starting", "running"), ("starting", "queued"), ("starting", "failed"), ("starting", "cancelled"),
    ("starting", "held"),
    ("running", "succeeded"), ("running", "failed"), ("running", "cancelled"), ("running", "timed_out"),
    ("running", "queued"), ("running", "held"),
    ("held", "queued"), ("held", "cancelled"), ("held", "held"),
}  # fmt: skip
WAY: dict[State, list[State]] = {
    State.QUEUED: [],
    State.STARTING: [State.STARTING],
    State.RUNNING: [State.STARTING, State.RUNNING],
    State.HELD: [State.HELD],
    State.SUCCEEDED: [State.STARTING, State.RUNNING, State.SUCCEEDED],
    State.FAILED: [State.STARTING, State.FAILED],
    State.CANCELLED: [State.CANCELLED],
    State.TIMED_OUT: [State.STARTING, State.RUNNING, State.TIMED_OUT],
    State.SUPERSEDED: [State.SUPERSEDED],
}
"""A way from the queue to each state."""


def reason_for(state: State) -> Reason | None:
    return next((reason for reason, leads_to in STATE_OF.items() if leads_to is state), None)


def run_in(store: Store, state: State) -> str:
    run = store.submit(submission())
    for step in WAY[state]:
        store.transition(run, step, reason_for(step))
    return run


@pytest.mark.parametrize("to", list(State))
@pytest.mark.parametrize("start", list(State))
def test_a_run_moves_exactly_as_the_table_says(store: Store, start: State, to: State) -> None:
    run = run_in(store, start)
    if (start, to) in LEGAL:
        assert store.transition(run, to, reason_for(to)).state is to
    else:
        with pytest.raises(IllegalTransition, match=f"{run} is {start} and can't become {to}"):
            store.transition(run, to, reason_for(to))
        assert store.run(run).state is start


@pytest.mark.parametrize("final", sorted(FINAL))
def test_no_wish_is_taken_for_a_run_that_has_ended(store: Store, final: State) -> None:
    run = run_in(store, final)
    with pytest.raises(IllegalTransition, match=f"has ended \\({final}\\); `runner rerun"):
        store.want(run, "cancel")


def test_an_ending_needs_the_reason_that_leads_there(store: Store) -> None:
    run = run_in(store, State.RUNNING)
    with pytest.raises(IllegalTransition, match="reason finished does not lead to failed"):
        store.transition(run, State.FAILED, Reason.FINISHED)
    with pytest.raises(IllegalTransition, match=r"reason \(none\) does not lead to held"):
        store.transition(run, State.HELD)


def test_every_transition_is_an_event_with_its_reason(store: Store) -> None:
    run = store.submit(submission())
    store.transition(run, State.STARTING)
    store.transition(run, State.FAILED, Reason.DIVERGED, "loss is NaN", error="Traceback …")
    assert rows(store, "SELECT seq, from_state, to_state, reason, detail FROM transitions ORDER BY id") == [
        (1, None, "queued", "waiting", ""),
        (2, "queued", "starting", None, ""),
        (3, "starting", "failed", "diverged", "loss is NaN"),
    ]
    ended = store.run(run)
    assert (ended.reason, ended.detail, ended.error) == (Reason.DIVERGED, "loss is NaN", "Traceback …")
    assert ended.started_at is None and ended.ended_at is not None


def test_runs_are_named_by_their_job_and_counted_per_job(store: Store) -> None:
    ids = [store.submit(submission(job)) for job in ("gsm8k", "countdown", "gsm8k", "gsm8k-2")]
    assert ids == ["gsm8k-1", "countdown-1", "gsm8k-2", "gsm8k-2-1"]
    assert [store.run(run).number for run in ids] == [1, 2, 3, 4]


def test_the_newest_submission_supersedes_the_pending_run_of_its_job_and_backend_only(store: Store) -> None:
    store.submit(submission())
    store.submit(submission(backend="trl"))
    store.submit(submission(job="gsm8k"))
    store.submit(submission(revision="r2"))
    states = {run: (store.run(run).state, store.run(run).detail) for run in ("countdown-1", "countdown-2", "gsm8k-1")}
    assert states == {
        "countdown-1": ("superseded", "by countdown-3"),
        "countdown-2": ("queued", ""),
        "gsm8k-1": ("queued", ""),
    }


def test_a_submission_never_touches_the_running_one(store: Store) -> None:
    run = run_in(store, State.RUNNING)
    store.submit(submission(revision="r2"))
    assert store.run(run).state is State.RUNNING


def test_the_spec_is_kept_byte_for_byte(store: Store) -> None:
    run = store.submit(submission())
    assert store.run(run).spec == '{"name": "countdown",  "seed": 0}'
    assert b'"spec":{"name": "countdown",  "seed": 0}' in (store.folder(store.run(run)).run_json).read_bytes()


def submit_many(path: Path) -> None:
    with Store.open(path) as store:
        for _ in range(20):
            store.submit(submission())


def test_racing_submitters_get_ids_of_their_own_and_leave_one_run_pending(tmp_path: Path) -> None:
    path = tmp_path / "runner.db"
    submitters = [SPAWN.Process(target=submit_many, args=(path,)) for _ in range(3)]
    for submitter in submitters:
        submitter.start()
    for submitter in submitters:
        submitter.join(60)
    assert [submitter.exitcode for submitter in submitters] == [0, 0, 0]
    with Store.read_only(path) as store:
        assert rows(store, "SELECT state, count(*) FROM runs GROUP BY state") == [("queued", 1), ("superseded", 59)]
        assert rows(store, "SELECT id FROM runs WHERE state = 'queued'") == [("countdown-60",)]


def test_a_claim_takes_a_queued_run_to_starting_once(store: Store) -> None:
    run = store.submit(submission())
    claimed = store.claim(run)
    assert claimed.run is not None and claimed.run.state is State.STARTING
    again = store.claim(run)
    assert (again.run, again.waiting) == (None, "countdown-1 is starting")


def test_a_claim_says_what_it_waits_for(store: Store) -> None:
    run_in(store, State.RUNNING)
    second = store.submit(submission())
    assert store.claim(second).waiting == "waiting for countdown-1 to end"
    assert store.run(second).detail == "waiting for countdown-1 to end"
    store.transition("countdown-1", State.SUCCEEDED, Reason.FINISHED)
    assert store.claim(second).run is not None


def test_a_run_that_is_to_be_cancelled_is_not_claimed(store: Store) -> None:
    run = store.submit(submission())
    store.want(run, "cancel")
    assert store.claim(run).waiting == "countdown-1 is to cancel"


def test_the_queue_goes_by_priority_then_by_the_order_of_submission(store: Store) -> None:
    store.submit(submission("first"))
    store.submit(submission("urgent", priority=5))
    store.submit(submission("other", backend="trl"))
    assert [run.id for run in queries.queue(store)] == ["urgent-1", "first-1", "other-1"]
    store.claim("urgent-1")
    store.submit(submission("urgent"))
    assert [run.id for run in queries.queue(store)] == ["first-1", "other-1", "urgent-2"]


def test_of_submissions_together_all_are_queued_or_none_is_and_no_folder_is_left(store: Store) -> None:
    def fill(folder: RunFolder) -> None:
        (folder.path / "source").mkdir()

    def fail(folder: RunFolder) -> None:
        raise OSError("no space left")

    first, second = replace(submission("first"), fill=fill), replace(submission("second"), fill=fill)
    with pytest.raises(OSError, match="no space left"):
        store.submit_all([first, replace(second, fill=fail)])
    assert queries.queue(store) == [] and list((store.path.parent / "runs").iterdir()) == []
    assert store.submit_all([first, second]) == ["first-1", "second-1"]
    assert all(store.folder(store.run(run)).source.is_dir() for run in ("first-1", "second-1"))


def claim_all(path: Path, claimed: multiprocessing.Queue[str | None]) -> None:
    with Store.open(path) as store:
        for run in queries.queue(store):
            if store.claim(run.id).run is not None:
                claimed.put(run.id)
    claimed.put(None)


def test_racing_claimers_take_every_run_once(store: Store) -> None:
    expected = sorted(store.submit(submission(f"job{n}")) for n in range(20))
    claimed = SPAWN.Queue()
    claimers = [SPAWN.Process(target=claim_all, args=(store.path, claimed)) for _ in range(3)]
    for claimer in claimers:
        claimer.start()
    got = [claimed.get(timeout=60) for _ in range(20 + len(claimers))]
    for claimer in claimers:
        claimer.join(60)
    assert sorted(run for run in got if run) == expected


def test_what_a_queued_run_waits_for_is_noted_only_while_it_is_queued(store: Store) -> None:
    run = store.submit(submission())
    store.waiting_all({run: "no GPU; use watch --emulate"})
    assert store.run(run).detail == "no GPU; use watch --emulate"
    store.claim(run)
    store.waiting_all({run: "too late"})
    assert store.run(run).detail == ""


def test_a_resumed_run_keeps_no_wish_to_stop_and_a_retried_one_keeps_its_wish_to_end(store: Store) -> None:
    held = run_in(store, State.RUNNING)
    store.want(held, "stop")
    store.transition(held, State.HELD, Reason.STOPPED)
    assert store.transition(held, State.QUEUED, Reason.WAITING).want == "run"
    store.claim(held)
    store.want(held, "cancel")
    assert store.transition(held, State.QUEUED, Reason.LOST).want == "cancel"


def test_a_held_run_does_not_take_the_place_of_a_pending_one(store: Store) -> None:
    held = run_in(store, State.HELD)
    store.submit(submission(revision="r2"))
    with pytest.raises(SlotTaken, match="countdown-1 can't be queued: countdown-2 is pending for countdown"):
        store.transition(held, State.QUEUED, Reason.WAITING)
    assert store.run(held).state is State.HELD


def test_attempts_are_counted_and_carry_who_runs_them_and_how_they_ended(store: Store) -> None:
    run = store.submit(submission())
    assert store.claim(run, host="here", boot_id="b1").attempt == 1
    store.set_handle(run, 1, {"pid": 42, "started": 7})
    store.end_attempt(run, 1, "lost", -9, ended_at=5.0)
    store.transition(run, State.QUEUED, Reason.LOST, "retry 1 of 2")
    assert store.claim(run).attempt == 2
    first = store.attempts(run)[0]
    assert (first.handle, first.host, first.outcome, first.exit_code) == ({"pid": 42, "started": 7}, "here", "lost", -9)
    assert (first.journal, first.ended_at) == ("journal/0001.jsonl", 5.0)
    with pytest.raises(StoreError, match="has no attempt 3"):
        store.end_attempt(run, 3, "lost")


def test_an_attempt_counts_on_from_what_is_in_the_folder(store: Store) -> None:
    run = store.submit(submission())
    write_journal(store, run, [started(3)], attempt=3)
    assert store.claim(run).attempt == 4


def test_a_failed_write_leaves_nothing_behind(store: Store) -> None:
    run = run_in(store, State.RUNNING)
    before = rows(store, "SELECT * FROM events")
    with pytest.raises(IllegalTransition):
        store.transition(run, State.STARTING)
    assert rows(store, "SELECT * FROM events") == before
    assert not store.db.conn.in_transaction


def test_the_folder_tells_the_state_after_every_write(store: Store) -> None:
    run = run_in(store, State.RUNNING)
    store.set_priority(run, 3)
    store.set_digest(run, "abc", "not comparable: a time-out")
    store.transition(run, State.SUCCEEDED, Reason.GOAL_REACHED, "step 4 of 5")
    told = json.loads((store.folder(store.run(run)).state_json).read_text())
    assert told["run"]["state"] == "succeeded"
    assert (told["run"]["priority"], told["run"]["digest"]) == (3, "abc")
    assert [move["data"]["to"] for move in told["transitions"]] == ["queued", "starting", "running", "succeeded"]


def test_an_unknown_run_is_named(store: Store) -> None:
    with pytest.raises(UnknownRun, match="no run 'nope-1'"):
        store.transition("nope-1", State.STARTING)


def test_job_files_are_kept_by_name_until_removed(store: Store) -> None:
    bad = JobRow(
        name="a",
        path="jobs/a/job.yaml",
        revision=None,
        state="invalid",
        errors=[{"code": "unknown-field"}],
        seen_at=1.0,
    )
    store.put_jobs([bad])
    store.put_jobs([bad])
    assert store.fetch(JobRow, "SELECT * FROM jobs") == [bad]
    store.remove_job("a")
    assert store.fetch(JobRow, "SELECT * FROM jobs") == []
