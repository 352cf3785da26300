"""Pages: every row once, in the order asked for, whatever the cursor meets."""

from __future__ import annotations

from typing import Any

import pytest

from runner.journal import events
from runner.store import browse
from runner.store.browse import Wanted
from runner.store.store import Store
from tests.store.builders import rows, score, started, submission, write_journal

STEPS, GROUPS, SIZE = 6, 3, 4


def rollout(step: int, group: int, idx: int) -> events.RolloutRow:
    """The reward counts up within a step; `long` fails for the last of each group and prints for the first."""
    reward = None if idx == SIZE - 1 else float(10 * group + idx)
    failed = score(None, "exception", "long", error="ValueError: no\n  line 3")
    said = score(1.0, "ok", "long", output=f"step {step}")
    last = failed if idx == SIZE - 1 else said if idx == 0 else score(1.0, "ok", "long")
    return events.RolloutRow(
        completion=f"Step {step} group {group} no {idx}",
        n_tokens=3,
        finish_reason="eos",
        reward=reward,
        advantage=0.0,
        scores=[score(step / 10, name="format"), last],
    )


def batch(step: int, split: events.Split = "train") -> events.BatchScored:
    groups = [
        events.GroupRow(group_id=g, example_id=7 + g, rollouts=[rollout(step, g, i) for i in range(SIZE)])
        for g in range(GROUPS)
    ]
    return events.BatchScored(step=step, split=split, reward_version="v1", groups=groups)


def record(store: Store) -> str:
    """A run before it, so that ids do not begin at its own, and one behind it."""
    ids: list[str] = []
    for job in ("before", "countdown", "behind"):
        run_id = store.submit(submission(job))
        examples = [events.ExampleRow(id=i, prompt=f"What is {i}?", columns={"n": i}) for i in (7, 8, 9, 10)]
        written = [started(), events.ExamplesSeen(examples=examples), *(batch(s) for s in range(1, STEPS + 1))]
        write_journal(store, run_id, [*written, batch(2, "eval")])
        store.ingest(run_id)
        ids.append(run_id)
    return ids[1]


def walk(store: Store, run_id: str, limit: int, wanted: Wanted = Wanted(), **more: Any) -> list[str]:  # noqa: B008
    """The texts of all pages, one after another."""
    found: list[str] = []
    after = None
    while True:
        page = browse.completions(store, run_id, wanted, after=after, limit=limit, **more)
        assert len(page.rows) <= limit
        found += [row.completion for row in page.rows]
        after = page.next
        if after is None:
            return found


def texts(*places: tuple[int, int, int]) -> list[str]:
    return [f"Step {s} group {g} no {i}" for s, g, i in places]


EVERY = [(s, g, i) for s in range(1, STEPS + 1) for g in range(GROUPS) for i in range(SIZE)]


@pytest.mark.parametrize("limit", [1, 5, 12, 72, 500])
def test_pages_of_any_size_give_every_completion_once_in_the_order_of_steps(store: Store, limit: int) -> None:
    assert walk(store, record(store), limit) == texts(*EVERY)


@pytest.mark.parametrize("limit", [1, 7, 500])
def test_the_best_come_first_the_latest_of_equals_before_and_those_without_a_reward_not_at_all(
    store: Store, limit: int
) -> None:
    found = walk(store, record(store), limit, order="best")
    assert found[:3] == texts((6, 2, 2), (5, 2, 2), (4, 2, 2))
    assert len(found) == len(set(found)) == STEPS * GROUPS * (SIZE - 1)
    assert walk(store, "countdown-1", limit, order="worst") == found[::-1]


def test_the_best_of_a_step_a_group_or_a_prompt(store: Store) -> None:
    run_id = record(store)
    assert walk(store, run_id, 2, Wanted(step=3, group_id=1), order="best") == texts((3, 1, 2), (3, 1, 1), (3, 1, 0))
    assert walk(store, run_id, 2, Wanted(example_id=8), order="best")[:2] == texts((6, 1, 2), (5, 1, 2))


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_one_prompt_over_the_steps(store: Store, limit: int) -> None:
    expected = texts(*((s, 2, i) for s in range(1, STEPS + 1) for i in range(SIZE)))
    assert walk(store, record(store), limit, Wanted(example_id=9)) == expected


@pytest.mark.parametrize("limit", [1, 4, 100])
def test_completions_that_a_reward_failed_on_latest_first(store: Store, limit: int) -> None:
    run_id = record(store)
    expected = texts(*((s, g, 3) for s in range(STEPS, 0, -1) for g in range(GROUPS - 1, -1, -1)))
    assert walk(store, run_id, limit, order="errors") == expected
    assert walk(store, run_id, limit, Wanted(split="eval"), order="errors") == texts((2, 2, 3), (2, 1, 3), (2, 0, 3))


def test_a_completion_that_two_rewards_failed_on_is_there_once(store: Store) -> None:
    run_id = record(store)
    with store.writing() as conn:
        conn.execute("UPDATE scores SET outcome = 'timeout', value = NULL")
    assert len(walk(store, run_id, 5, order="errors")) == len(EVERY)


@pytest.mark.parametrize("window", [1, 2, 7, 20_000])
def test_a_search_finds_the_same_whatever_the_size_of_its_windows(
    store: Store, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browse, "WINDOW", window)
    run_id = record(store)
    found = [row.completion for row in browse.search(store, run_id, "group 1 no 2", limit=100).rows]
    assert found == [*texts((2, 1, 2)), *texts(*((s, 1, 2) for s in range(STEPS, 0, -1)))]  # the evaluation came last
    assert walk(store, run_id, 2, Wanted(text="no 2", least=20)) == texts(*((s, 2, 2) for s in range(1, STEPS + 1)))
    assert walk(store, run_id, 2, Wanted(reward="format", least=0.5, most=0.55)) == texts(*EVERY[48:60])


def test_a_search_whose_time_is_up_goes_on_where_it_was(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browse, "WINDOW", 5)
    monkeypatch.setattr(browse, "SECONDS", -1.0)
    run_id = record(store)
    after, pages, found = None, 0, []
    while pages == 0 or after is not None:
        page = browse.search(store, run_id, "step 3 group 2", after=after, limit=100)
        found += [row.completion for row in page.rows]
        after, pages = page.next, pages + 1
    assert found == texts(*((3, 2, i) for i in (3, 2, 1, 0)))
    assert pages == 17  # 84 completions, five at a time


def test_case_counts_when_the_text_has_a_capital(store: Store) -> None:
    run_id = record(store)
    assert len(browse.search(store, run_id, "step 3 group 2", limit=100).rows) == 4
    assert len(browse.search(store, run_id, "Step 3 group 2", limit=100).rows) == 4
    assert browse.search(store, run_id, "STEP 3 group 2", limit=100).rows == []


@pytest.mark.parametrize("text", ["100%", "a_c", "\0hidden", "'; DROP TABLE runs; --", "\N{SNOWMAN}", "\\"])
def test_any_text_is_found_as_it_stands_and_only_so(store: Store, text: str) -> None:
    run_id = record(store)
    with store.writing() as conn:
        conn.execute("UPDATE rollouts SET completion = ? WHERE run_id = ? AND step = 4 AND group_id = 0 AND idx = 0",
                     (f"before{text}after", run_id))  # fmt: skip
        conn.execute("UPDATE rollouts SET completion = 'abc 100 hidden' WHERE run_id = ? AND step = 5", (run_id,))
    assert [row.completion for row in browse.search(store, run_id, text, limit=9).rows] == [f"before{text}after"]


def test_bounds_of_the_total_hold_in_every_order(store: Store) -> None:
    run_id = record(store)
    wanted = Wanted(least=11.0, most=20.0)
    expected = set(texts(*((s, g, i) for s, g, i in EVERY if i < 3 and 11 <= 10 * g + i <= 20)))
    for order in ("step", "best", "worst"):
        assert set(walk(store, run_id, 4, wanted, order=order)) == expected, order
    assert walk(store, run_id, 4, Wanted(step=1, least=11.0, most=20.0), order="worst") == texts(
        (1, 1, 1), (1, 1, 2), (1, 2, 0)
    )


def test_a_page_ends_before_its_texts_fill_the_memory(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = record(store)
    monkeypatch.setattr(browse, "PAGE_CHARS", 100)
    first = browse.completions(store, run_id, Wanted(), limit=50)
    assert len(first.rows) == 3  # of 22 + 10 characters each
    assert walk(store, run_id, 50) == texts(*EVERY)
    monkeypatch.setattr(browse, "PAGE_CHARS", 1)
    assert len(browse.completions(store, run_id, Wanted(), limit=50).rows) == 1


def test_a_very_long_completion_is_cut(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = record(store)
    monkeypatch.setattr(browse, "TEXT_CHARS", 8)
    row = browse.completions(store, run_id, Wanted(), limit=1).rows[0]
    assert (row.completion, row.prompt) == ("Step 1 g", "What is ")


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_prompts_with_what_came_of_them(store: Store, limit: int) -> None:
    run_id = record(store)
    found: list[Any] = []
    after = None
    while not found or after is not None:
        page = browse.prompts(store, run_id, after=after, limit=limit)
        found += page.rows
        after = page.next
    assert [row.example_id for row in found] == [7, 8, 9]  # example 10 has no completions
    first = found[1]
    assert (first.prompt, first.prompt_length, first.columns) == ("What is 8?", 10, '{"n":8}')
    assert (first.completions, first.first_step, first.last_step) == (24, 1, 6)
    assert (first.best, first.mean) == (12.0, 11.0)


def test_prompts_by_their_text_and_of_an_evaluation(store: Store) -> None:
    run_id = record(store)
    assert [row.example_id for row in browse.prompts(store, run_id, text="is 9").rows] == [9]
    evaluated = browse.prompts(store, run_id, "eval").rows
    assert [(row.example_id, row.completions, row.last_step) for row in evaluated] == [(7, 4, 2), (8, 4, 2), (9, 4, 2)]


@pytest.mark.parametrize("limit", [1, 5, 500])
def test_reward_logs_in_the_order_of_rollouts(store: Store, limit: int) -> None:
    run_id = record(store)

    def logs(**more: Any) -> list[tuple[int, str, str]]:
        found: list[tuple[int, str, str]] = []
        after = None
        while True:
            page = browse.reward_logs(store, run_id, after=after, limit=limit, **more)
            found += [(row.step, row.split, row.outcome) for row in page.rows]
            after = page.next
            if after is None:
                return found

    of_step = [(2, "train", "ok"), (2, "train", "exception")] * GROUPS
    assert len(logs()) == 2 * GROUPS * (STEPS + 1)
    assert logs(step=2) == [*of_step, *((2, "eval", outcome) for _, _, outcome in of_step)]
    assert {outcome for _, _, outcome in logs(outcome="failed")} == {"exception"}
    assert len(logs(outcome="ok")) == len(logs(outcome="exception")) == GROUPS * (STEPS + 1)
    assert logs(name="format") == []
    assert logs(text="step 5") == [(5, "train", "ok")] * GROUPS
    assert len(logs(text="line 3")) == GROUPS * (STEPS + 1)


PAGES: dict[str, tuple[Wanted, browse.Order, str]] = {
    "a step": (Wanted(step=3), "step", "sqlite_autoindex_rollouts_1 (run_id=? AND split=? AND step=?)"),
    "the run": (Wanted(), "step", "sqlite_autoindex_rollouts_1 (run_id=? AND split=?"),
    "a prompt": (Wanted(example_id=7), "step", "rollouts_example (run_id=? AND split=? AND example_id=?)"),
    "best of a step": (Wanted(step=3), "best", "sqlite_autoindex_rollouts_1 (run_id=? AND split=? AND step=?)"),
    "best of a prompt": (Wanted(example_id=7), "best", "rollouts_example (run_id=? AND split=? AND example_id=?)"),
    "best": (Wanted(), "best", "rollouts_reward (run_id=? AND split=? AND"),
    "worst below": (Wanted(most=3.0), "worst", "rollouts_reward (run_id=? AND split=? AND"),
    "errors": (Wanted(), "errors", "scores_failed (rollout_id>? AND rollout_id<?)"),
}


@pytest.mark.parametrize("name", PAGES)
def test_the_index_that_each_page_follows(store: Store, name: str) -> None:
    wanted, order, index = PAGES[name]
    run_id = record(store)
    asked: list[str] = []
    store.db.conn.set_trace_callback(asked.append)
    page = browse.completions(store, run_id, wanted, order=order, limit=2)
    browse.completions(store, run_id, wanted, order=order, limit=2, after=page.next)
    store.db.conn.set_trace_callback(None)
    found = [sql for sql in asked if sql.startswith("SELECT r.id, ") and "LIMIT" in sql]
    assert len(found) == 2
    for sql in found:
        plan = [str(step[3]) for step in rows(store, f"EXPLAIN QUERY PLAN {sql}")]
        assert index in plan[0], plan


def test_an_unknown_completion_is_none(store: Store) -> None:
    run_id = record(store)
    first = browse.completions(store, run_id, Wanted(), limit=1).rows[0]
    assert browse.completion(store, first.id) == first
    assert browse.completion(store, 12) is None
