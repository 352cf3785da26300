"""What people and pages ask of the store."""

from __future__ import annotations

import pytest

from runner.journal import events
from runner.journal.states import State
from runner.store import queries
from runner.store.errors import UnknownRun
from runner.store.store import Store
from tests.store.builders import (
    batch,
    evaluation,
    metrics,
    rollout,
    saved,
    score,
    seen,
    started,
    submission,
    version,
    write_journal,
)

BASE = 1 << 32


@pytest.fixture
def run(store: Store) -> str:
    """Three steps with known rewards; one call failed, one printed."""
    run = store.submit(submission())
    failed = score(None, "exception", name="length", error="ZeroDivisionError: division by zero")
    printed = score(0.5, output="hello", name="length")
    written: list[events.Event] = [started(), version(1, "active", 0), seen(), *evaluation(0)]
    written += [batch(1, rollout("a", 0.25), rollout("b", 1.0), rollout("c", None, score(0.5), failed)), metrics(1)]
    written += [batch(2, rollout("d", 1.0), rollout("e", 0.75, score(0.25), printed)), metrics(2), saved(2)]
    written += [batch(3, rollout("f", 0.5)), metrics(3)]
    write_journal(store, run, written)
    store.ingest(run)
    return run


def texts(found: list[queries.CompletionRow]) -> str:
    return "".join(row.completion for row in found)


def test_runs_come_latest_first_by_pages_and_filters(store: Store) -> None:
    for job in ("a", "b", "a", "b"):
        store.submit(submission(job))
    assert [run.id for run in queries.runs(store)] == ["b-2", "a-2", "b-1", "a-1"]
    assert [run.id for run in queries.runs(store, limit=2)] == ["b-2", "a-2"]
    assert [run.id for run in queries.runs(store, before=3)] == ["b-1", "a-1"]
    assert [run.id for run in queries.runs(store, job="a")] == ["a-2", "a-1"]
    assert [run.id for run in queries.runs(store, states=[State.SUPERSEDED], job="b")] == ["b-1"]


def test_a_run_is_found_by_its_id_its_job_or_the_beginning_of_its_id(store: Store) -> None:
    for job in ("gsm8k", "gsm8k", "countdown", "gsm"):
        store.submit(submission(job))
    assert queries.find_run(store, "gsm8k-1").id == "gsm8k-1"
    assert queries.find_run(store, "gsm8k").id == "gsm8k-2"
    assert queries.find_run(store, "gsm").id == "gsm-1"
    assert queries.find_run(store, "count").id == "countdown-1"
    with pytest.raises(UnknownRun, match="'g' could be gsm-1, gsm8k-2, gsm8k-1; write more of it"):
        queries.find_run(store, "g")
    with pytest.raises(UnknownRun, match="no run or job 'x%'"):
        queries.find_run(store, "x%")


def test_runs_of_a_revision_tell_whether_a_scan_has_something_new(store: Store) -> None:
    store.submit(submission(revision="r1"))
    store.submit(submission(revision="r2"))
    assert [run.id for run in queries.revision_runs(store, "countdown", "r1", "emulator")] == ["countdown-1"]
    assert queries.revision_runs(store, "countdown", "r1", "trl") == []


def test_metrics_are_series_by_name(store: Store, run: str) -> None:
    assert queries.metrics(store, run, ["reward", "eval/reward"]) == {
        "eval/reward": [(0, 0.0)],
        "reward": [(1, 0.1), (2, 0.2), (3, 0.3)],
    }
    assert list(queries.metrics(store, run)) == ["eval/reward", "reward", "time/step"]
    assert queries.last_metrics(store, run) == {"eval/reward": 0.0, "reward": 0.3, "time/step": 0.1 * 3}


def test_completions_come_in_order_with_prompt_and_scores(store: Store, run: str) -> None:
    found = queries.completions(store, run, split="train", step=1)
    assert texts(found) == "abc"
    assert (found[0].prompt, found[0].id, found[0].reward_version) == ("2 and 3 make 5:", BASE + 3, "v1")
    assert {name: row.outcome for name, row in found[2].scores.items()} == {"format": "ok", "length": "exception"}
    assert found[2].reward is None
    assert texts(queries.completions(store, run, split="train", limit=2, after=BASE + 4)) == "cd"
    assert texts(queries.completions(store, run, split="train", failed=True)) == "c"
    assert texts(queries.completions(store, run, split="train", prompt="make 5", limit=2)) == "ab"
    assert queries.completions(store, run, prompt="make 6") == queries.completions(store, run, example_id=8) == []
    assert queries.completion(store, BASE + 3) == found[0]
    assert queries.completion(store, 5) is None


def test_best_and_worst_completions_go_by_reward_and_page_without_gaps(store: Store, run: str) -> None:
    assert texts(queries.completions(store, run, split="train", order="best")) == "bdefa"
    assert texts(queries.completions(store, run, split="train", order="worst")) == "afebd"
    for order, expected in (("best", "bdefa"), ("worst", "afebd")):
        got, after = "", None
        while page := queries.completions(store, run, split="train", order=order, after=after, limit=1):  # type: ignore[arg-type]
            got, after = got + texts(page), page[-1].id
        assert got == expected


def test_groups_of_a_step_in_figures(store: Store, run: str) -> None:
    (group,) = queries.groups(store, run, 1)
    assert (group.example_id, group.prompt, group.completions, group.scored) == (7, "2 and 3 make 5:", 3, 2)
    assert (group.reward_mean, group.reward_min, group.reward_max) == (0.625, 0.25, 1.0)
    assert queries.steps(store, run) == [1, 2, 3]
    assert queries.steps(store, run, "eval") == [0]
    assert queries.example(store, run, 7) == ("2 and 3 make 5:", '{"target":5}')


def test_following_events_gives_each_once(store: Store, run: str) -> None:
    got: list[int] = []
    after = 0
    while page := queries.events(store, run, after=after, limit=4):
        got += [event.seq for event in page if event.attempt]
        after = page[-1].id
    assert got == list(range(1, 13))
    assert after == queries.last_event(store, run) == queries.last_event(store)
    assert [event.type for event in queries.events(store, run, types=["checkpoint_saved"])] == ["checkpoint_saved"]
    (first, *_) = queries.events(store, run, types=["version_changed"])
    assert first.data is not None and (first.data["state"], first.void) == ("active", False)


def test_events_of_all_runs_can_be_followed_at_once(store: Store, run: str) -> None:
    cursor = queries.last_event(store)
    other = store.submit(submission("gsm8k"))
    assert [(event.run_id, event.type) for event in queries.events(store, after=cursor)] == [(other, "transition")]


def test_reward_logs_have_the_calls_that_failed_or_printed(store: Store, run: str) -> None:
    failed, printed = queries.reward_logs(store, run)
    assert (failed.step, failed.name, failed.outcome) == (1, "length", "exception")
    assert failed.error == "ZeroDivisionError: division by zero"
    assert (printed.step, printed.outcome, printed.output) == (2, "ok", "hello")
    assert queries.reward_logs(store, run, after=(failed.rollout_id, failed.name)) == [printed]
    assert queries.reward_logs(store, run, outcome="exception") == [failed]
    assert queries.reward_logs(store, run, name="format") == []


def test_outcomes_are_counted_by_function(store: Store, run: str) -> None:
    counted = {(row.name, row.outcome): row.calls for row in queries.outcomes(store, run)}
    assert counted == {("format", "ok"): 8, ("length", "exception"): 1, ("length", "ok"): 1}


def test_checkpoints_and_reward_versions_are_rows(store: Store, run: str) -> None:
    assert [(row.step, row.kept, row.weights) for row in queries.checkpoints(store, run)] == [(2, True, "w2")]
    assert [(row.version, row.sha256, row.state) for row in queries.reward_versions(store, run)] == [
        (1, "v1", "active")
    ]
    assert queries.jobs(store) == []


def test_pages_of_a_run_are_read_through_indexes(store: Store, run: str) -> None:
    asked: list[str] = []
    store.db.conn.set_trace_callback(asked.append)
    queries.completions(store, run, split="train", order="best", after=BASE + 3)
    queries.completions(store, run, step=1, split="train")
    queries.groups(store, run, 1)
    queries.reward_logs(store, run)
    queries.metrics(store, run)
    queries.events(store, run)
    store.db.conn.set_trace_callback(None)
    assert len(asked) >= 6
    for sql in asked:
        plan = " | ".join(row[3] for row in store.db.conn.execute(f"EXPLAIN QUERY PLAN {sql}"))
        assert "SCAN r" not in plan.replace("SCAN json_each", ""), f"{sql}\n{plan}"
