"""Bounds on values, and functions that are called only where others allow it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner.rewards.bundle import build, write
from runner.rewards.contract import Outcome, Score
from runner.rewards.gate import clipped
from runner.rewards.host import RewardHost
from runner.spec.gate import GateError, find_cycle, parse_gate
from runner.spec.model import Budget, Reward
from tests.rewards.helpers import group

SOURCE = """
def format(prompt, completion, example):
    if "boom" in completion:
        raise ValueError("boom")
    return None if "skip" in completion else float("ok" in completion)

def length(prompt, completion, example):
    return {"score": len(completion), "reason": "letters"}

def answer(prompt, completion, example):
    print("called")
    return 1.0

def judge(prompt, completion, example):
    return 2.0
"""


def scores(folder: Path, completions: list[str], workers: int = 2, **rewards: Reward) -> list[dict[str, Score]]:
    (folder / "rewards.py").write_text(SOURCE)
    version = write(build(rewards, folder), folder / "versions")
    with RewardHost(version, seed=0, workers=workers) as host:
        rows = host.score([group(completions)], step=1, split="train")
    return [{score.name: score for score in row} for row in rows]


def reward(name: str, **options: Any) -> Reward:
    return Reward(fn=f"rewards.py:{name}", **options)


def test_a_value_beyond_its_bounds_counts_as_the_bound_and_says_what_it_was(tmp_path: Path) -> None:
    rows = scores(tmp_path, ["x" * 7, "xx", "xxx"], length=reward("length", clip=[2.5, 5]))
    assert [row["length"].value for row in rows] == [5.0, 2.5, 3.0]
    assert [row["length"].reason for row in rows] == [
        "letters (clipped from 7)", "letters (clipped from 2)", "letters",
    ]  # fmt: skip


def test_a_call_without_a_value_has_nothing_to_clip() -> None:
    failed = Score(name="f", value=None, outcome=Outcome.EXCEPTION)
    assert clipped(failed, [0, 1]) is failed


def test_a_gated_function_is_called_only_where_its_condition_holds(tmp_path: Path) -> None:
    rows = scores(
        tmp_path,
        ["ok", "no", "skip", "boom", "ok " + "x" * 40],
        answer=reward("answer", only_if="format > 0 and length < 30"),
        format=reward("format", on_error="zero"),
        length=reward("length", weight=0),
    )
    assert [row["answer"].outcome for row in rows] == ["ok", "none", "none", "none", "none"]
    assert [row["answer"].output for row in rows] == ["called\n", None, None, None, None]
    assert rows[1]["answer"].reason == "gated: format > 0 and length < 30"
    assert rows[3]["format"].value == 0.0  # the error's zero is no value that a condition could hold for


def test_a_failed_or_absent_value_opens_no_gate_whatever_the_comparison(tmp_path: Path) -> None:
    gated = reward("answer", only_if="format < 1")
    rows = scores(tmp_path, ["boom", "skip"], format=reward("format", on_error="zero"), answer=gated)
    assert [row["answer"].outcome for row in rows] == ["none", "none"]


def test_gates_may_hang_on_gates_and_see_clipped_values(tmp_path: Path) -> None:
    rows = scores(
        tmp_path,
        ["ok", "no", "ok" + "x" * 10],
        judge=reward("judge", only_if="answer == 1 or length > 3"),
        answer=reward("answer", only_if='"format" >= 1'),
        format=reward("format"),
        length=reward("length", clip=[0, 3]),
    )
    assert [row["judge"].value for row in rows] == [2.0, None, 2.0]


@pytest.mark.parametrize("workers", [1, 3])
def test_many_gated_calls_all_get_their_score(tmp_path: Path, workers: int) -> None:
    completions = [f"{'ok' if i % 3 else 'no'} {i}" for i in range(200)]
    rows = scores(
        tmp_path, completions, workers, format=reward("format"), answer=reward("answer", only_if="format > 0.5")
    )  # fmt: skip
    assert [row["answer"].value for row in rows] == [1.0 if i % 3 else None for i in range(200)]


def test_conditions_are_read_not_run() -> None:
    gate = parse_gate("a > 0 and (b <= -1.5 or 'c-1' != 2)")
    assert gate.holds({"a": 1.0, "b": -2.0, "c-1": 2.0})
    assert not gate.holds({"a": 1.0, "b": 0.0, "c-1": 2.0})
    assert not gate.holds({"a": 1.0, "b": 0.0, "c-1": None})
    assert sorted(gate.names()) == ["a", "b", "c-1"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("format", "`format` is no comparison"),
        ("__import__('os').system('x') > 0", "is no name of a reward"),
        ("0 < format < 1", "is no comparison"),
        ("format > True", "`True` is no number"),
        ("format > other", "`other` is no number"),
        ("format >", "is no condition"),
        ("not format > 0", "is no comparison"),
        ("a > 0" + " and a > 0" * 100, "more than 1000 characters"),
    ],
)
def test_everything_else_is_refused(text: str, problem: str) -> None:
    with pytest.raises(GateError, match=problem):
        parse_gate(text)


def test_a_circle_of_conditions_is_found() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_cycle({"a": {"a"}}) == ["a", "a"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_a_gated_function_is_called_once_the_others_are_there_whatever_isolates_or_caches_it(tmp_path: Path) -> None:
    rows = scores(
        tmp_path,
        ["ok", "no", "ok"],
        judge=reward("judge", only_if="format > 0", isolation="call", cache=True),
        format=reward("format", cache=True),
    )
    assert [row["judge"].value for row in rows] == [2.0, None, 2.0]
    assert rows[1]["judge"].reason == "gated: format > 0"


def test_a_budget_counts_only_the_calls_that_the_gate_lets_through(tmp_path: Path) -> None:
    rows = scores(
        tmp_path,
        ["no", "ok", "no", "ok"],
        judge=reward("judge", only_if="format > 0", budget=Budget(calls=1)),
        format=reward("format"),
    )
    outcomes = [row["judge"].outcome for row in rows]
    assert outcomes.count(Outcome.OK) == 1 and outcomes.count(Outcome.BUDGET) == 1
    assert outcomes[0] == outcomes[2] == Outcome.NONE
