"""Rewards that ask a service: many at a time, at its rate, again when it fails, never twice, within a budget."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from runner.rewards.bundle import Function
from runner.rewards.contract import GroupCall, Outcome, Score
from runner.rewards.host import RewardHost
from runner.rewards.meter import Meter
from runner.rewards.sandbox import Settings
from runner.spec.sandbox import Budget, RateLimit, Retries, Sandbox
from tests.rewards.helpers import group, open_files, processes_with, version_of


def scores_of(host: RewardHost, texts: Any, step: int = 0) -> list[Score]:
    return [row[0] for row in host.score([group(texts)], step=step, split="train")]


# ------------------------------------------------------------------------------------------------ at the same time


def test_plain_functions_that_wait_run_in_as_many_processes_as_the_job_says(tmp_path: Path) -> None:
    source = "import time, os\ndef score(p, c, e):\n    time.sleep(0.5)\n    return os.getpid()\n"
    with RewardHost(version_of(tmp_path, source, concurrency=16), seed=0) as host:
        started = time.monotonic()
        scores = scores_of(host, "a" * 16)
        assert time.monotonic() - started < 3, "one after the other they take 8 s"
    assert len({score.value for score in scores}) == 16


ASYNC = """
import asyncio, os, sys, time
running = most = 0
async def score(prompt, completion, example, ctx):
    global running, most
    running += 1
    most = max(most, running)
    print("start", completion)
    try:
        await asyncio.sleep(0.2)
        if completion == "raise":
            raise ValueError(completion)
        if completion == "hang":
            await asyncio.sleep(60)
        if completion == "stubborn":
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    pass
        if completion == "block":
            time.sleep(60)
        if completion == "crash":
            os._exit(1)
        if completion == "exit":
            sys.exit(2)
    finally:
        running -= 1
    print("end", completion)
    ctx.log_metric("most", most)
    return {"score": len(completion), "reason": str(os.getpid())}
"""


def test_async_functions_run_together_in_one_worker(tmp_path: Path) -> None:
    with RewardHost(version_of(tmp_path, ASYNC, concurrency=8), seed=0) as host:
        scores = scores_of(host, [f"t{i}" for i in range(24)])
    assert len({score.reason for score in scores}) == 1
    assert max(score.metrics["most"] for score in scores) == 8
    assert [(score.value, score.output) for score in scores] == [
        (float(len(f"t{i}")), f"start t{i}\nend t{i}\n") for i in range(24)
    ]


@pytest.mark.parametrize(
    ("bad", "outcome"),
    [
        ("raise", Outcome.EXCEPTION),
        ("exit", Outcome.EXCEPTION),
        ("hang", Outcome.TIMEOUT),
        ("stubborn", Outcome.TIMEOUT),
        ("block", Outcome.TIMEOUT),
        ("crash", Outcome.KILLED),
    ],
)
def test_one_bad_call_among_many_at_a_time_costs_itself(tmp_path: Path, bad: str, outcome: Outcome) -> None:
    before = open_files()
    with RewardHost(version_of(tmp_path, ASYNC, timeout=0.6), seed=0) as host:
        scores = scores_of(host, ["a", "b", "c", bad, "e", "f", "g", "h"])
    assert [score.value for score in scores] == [1.0, 1.0, 1.0, None, 1.0, 1.0, 1.0, 1.0]
    assert scores[3].outcome == outcome and scores[3].output == f"start {bad}\n"
    if outcome == Outcome.TIMEOUT:
        assert scores[3].error and scores[3].error.startswith("no result after 0.6 s\n  ")
        assert bad == "stubborn" or "rewards.py:" in scores[3].error, "where a task waits is not on the stack"
    assert processes_with(str(tmp_path)) == [] and open_files() == before


def test_rewards_that_wait_do_not_keep_others_from_running(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(
        "import time\ndef slow(p, c, e):\n    time.sleep(0.3)\n    return 1\ndef fast(p, c, e):\n    return 2\n"
    )
    from runner.rewards.bundle import build, write
    from runner.spec.model import Reward

    rewards = {"slow": Reward(fn="rewards.py:slow", concurrency=4), "fast": Reward(fn="rewards.py:fast")}
    with RewardHost(write(build(rewards, tmp_path), tmp_path / "v"), seed=0) as host:
        rows = host.score([group("abcdefgh")] * 2, step=0, split="train")
    assert [[score.value for score in row] for row in rows] == [[1.0, 2.0]] * 16


# ------------------------------------------------------------------------------------------------ rate, retries


def test_calls_start_no_faster_than_the_rate(tmp_path: Path) -> None:
    source = "import time\ndef score(p, c, e):\n    return time.monotonic()\n"
    with RewardHost(version_of(tmp_path, source, rate_limit=RateLimit(rpm=600)), seed=0) as host:
        at = sorted(score.value or 0 for score in scores_of(host, "a" * 15))
    # 600 a minute are 10 a second: ten at once, then one every 0.1 s
    assert at[14] - at[0] >= 0.35
    assert len([value for value in at if value - at[0] < 0.09]) <= 12


def test_tokens_that_were_used_hold_back_the_next_calls() -> None:
    meter = Meter(function(tpm=600.0))
    meter.start(100.0)
    assert meter.delay(100.0) == 0
    meter.use(30)
    assert meter.delay(100.0) == pytest.approx(2.0)
    assert meter.delay(101.0) == pytest.approx(1.0)
    assert meter.delay(102.1) == 0


def function(**fields: Any) -> Function:
    own = {"name": "f", "file": "r.py", "attribute": "f", "weight": 1.0, "trusted": False, "timeout": 1.0}
    return Function(**own, on_error="mask", **fields)


FLAKY = """
import os
def score(prompt, completion, example, ctx):
    tries = int(open(completion).read()) if os.path.exists(completion) else 0
    open(completion, "w").write(str(tries + 1))
    if tries < example["failures"]:
        raise (ConnectionError if completion == "a" else ctx.Retry)("busy")
    return tries
"""


def test_what_passes_is_tried_again_as_often_as_the_job_says(tmp_path: Path) -> None:
    version = version_of(tmp_path, FLAKY, retries=Retries(max=2, backoff=0.01))
    with RewardHost(version, seed=0) as host:
        again = host.score([group("ab", {"failures": 2})], step=0, split="train")
        never = host.score([group("cd", {"failures": 9})], step=0, split="train")
    assert [row[0].value for row in again] == [2.0, 2.0]
    assert {row[0].outcome for row in never} == {Outcome.EXCEPTION}
    assert never[0][0].error and never[0][0].error.startswith("Retry: busy\n")
    assert never[0][0].error.endswith("after 2 retries")


def test_without_retries_a_failure_that_passes_is_an_exception(tmp_path: Path) -> None:
    with RewardHost(version_of(tmp_path, FLAKY), seed=0) as host:
        ((score,),) = host.score([group("a", {"failures": 1})], step=0, split="train")
    assert score.outcome == Outcome.EXCEPTION and score.error and score.error.startswith("ConnectionError: busy\n")


# ------------------------------------------------------------------------------------------------ cache, budget

COUNTED = """
import os
def score(prompt, completion, example, ctx):
    with open("calls", "a") as file:
        file.write("x")
    ctx.use_tokens(10)
    return {"score": os.path.getsize("calls"), "reason": completion} if completion != "bad" else "no number"
"""


def test_an_equal_call_is_made_once_and_kept_over_restarts(tmp_path: Path) -> None:
    version = version_of(tmp_path, COUNTED, cache=True)
    state, scratch = tmp_path / "state", tmp_path / "scratch"
    state.mkdir()
    settings = Settings(state=state)
    with RewardHost(version, seed=0, workers=1, scratch=scratch, settings=settings) as host:
        first = scores_of(host, ["a", "bad"])
    with (state / "cache.jsonl").open("a") as file:
        file.write('{"key": "half a li')
    with RewardHost(version, seed=0, workers=1, scratch=scratch, settings=settings) as host:
        again = scores_of(host, ["a", "bad", "c"], step=9)
    assert [(score.value, score.reason, score.metrics) for score in first] == [
        (1.0, "a", {"cached": 0.0}),
        (None, None, {"cached": 0.0}),
    ]
    assert [(score.value, score.metrics["cached"]) for score in again] == [(1.0, 1.0), (None, 0.0), (4.0, 0.0)]


def test_another_version_or_example_is_another_call(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    for n, source in enumerate([COUNTED, COUNTED + "\n"]):
        version = version_of(tmp_path / str(n), source, cache=True)
        with RewardHost(version, seed=0, settings=Settings(state=state)) as host:
            for answer in ("42", "43"):
                rows = host.score([group(["a"], {"answer": answer})], step=0, split="train")
                assert rows[0][0].metrics == {"cached": 0.0}


@pytest.mark.parametrize(
    ("budget", "made", "words"),
    [
        (Budget(calls=3), 3, "not called: its budget of 3 calls is used up"),
        (Budget(tokens=25), 3, "not called: its budget of 25 tokens is used up"),
    ],
)
def test_a_budget_holds_over_all_attempts_of_a_run(tmp_path: Path, budget: Budget, made: int, words: str) -> None:
    version = version_of(tmp_path, COUNTED, budget=budget, concurrency=1)
    state = tmp_path / "state"
    state.mkdir()
    with RewardHost(version, seed=0, settings=Settings(state=state)) as host:
        assert [score.outcome for score in scores_of(host, "ab")] == [Outcome.OK] * 2
    with RewardHost(version, seed=0, settings=Settings(state=state)) as host:
        scores = scores_of(host, "cdefg", step=1)
    assert [score.outcome for score in scores] == [Outcome.OK] * (made - 2) + [Outcome.BUDGET] * (7 - made)
    assert scores[-1].error == words and scores[-1].value is None


# ------------------------------------------------------------------------------------------------ ctx


def test_ctx_knows_where_the_training_is_and_what_the_completion_is(tmp_path: Path) -> None:
    source = """
    import random
    def score(prompt, completion, example, ctx):
        ctx.log_metric("words", len(completion.split()))
        ctx.log_metric("bad", float("nan"))
        said = [ctx.step, ctx.progress, ctx.split, ctx.finish, ctx.n_tokens, ctx.messages, isinstance(ctx.seed, int)]
        return {"score": 1, "reason": str(said)}
    """
    call = GroupCall(prompt="p", example={}, completions=["a b c"], finish=["length"], tokens=[7])
    with RewardHost(version_of(tmp_path, source), seed=0, steps=200) as host:
        ((score,),) = host.score([call], step=50, split="eval")
    assert score.reason == "[50, 0.25, 'eval', 'length', 7, None, True]"
    assert score.metrics == {"words": 3.0}


def test_what_a_call_logs_is_bounded(tmp_path: Path) -> None:
    source = """
    def score(prompt, completion, example, ctx):
        if completion == "b":
            ctx._metrics = {"x" * 100: 1.0}
        for i in range(1000):
            ctx.log_metric(f"{i:03}" * 40, i)
        return 1
    """
    with RewardHost(version_of(tmp_path, source), seed=0) as host:
        logged, forged = scores_of(host, "ab")
    assert len(logged.metrics) == 32 and max(map(len, logged.metrics)) == 64
    assert forged.outcome == Outcome.KILLED and forged.error and "that are no answer" in forged.error


def test_opening_the_network_lets_a_judge_be_asked(tmp_path: Path) -> None:
    source = """
    import asyncio
    async def score(prompt, completion, example):
        reader, writer = await asyncio.open_connection("127.0.0.1", 9)
    """
    with RewardHost(version_of(tmp_path, source), seed=0, settings=Settings(sandbox=Sandbox(network=True))) as host:
        (score,) = scores_of(host, "a")
    assert score.error and score.error.startswith("ConnectionRefusedError")
