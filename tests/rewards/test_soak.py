"""Two thousand calls, one in twelve of which takes its process down or hangs: nothing is lost, nothing left over."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from runner.rewards.contract import Outcome
from runner.rewards.host import RewardHost
from tests.rewards.helpers import group, open_files, processes_with, version_of

SOURCE = """
import ctypes, os, signal, threading, time
KILLERS = {
    "hang": lambda: time.sleep(60),
    "segv": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(0),
    "abort": os.abort,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
}
def score(prompt, completion, example):
    if completion in KILLERS:
        KILLERS[completion]()
    return len(completion)
"""
KILLERS = {"hang": Outcome.TIMEOUT, "stop": Outcome.TIMEOUT} | dict.fromkeys(
    ["segv", "exit", "abort", "kill"], Outcome.KILLED
)


@pytest.mark.soak
@pytest.mark.parametrize("isolation", ["worker", "call"])
def test_two_thousand_calls_with_eight_percent_killers_lose_nothing(tmp_path: Path, isolation: str) -> None:
    draw = random.Random(0)
    texts = [draw.choice(list(KILLERS)) if draw.random() < 0.08 else "x" * draw.randint(10, 99) for _ in range(2000)]
    groups = [group(texts[start : start + 8]) for start in range(0, 2000, 8)]
    before = open_files()
    version = version_of(tmp_path, SOURCE, isolation=isolation, timeout=0.5)
    with RewardHost(version, seed=0, scratch=tmp_path / "scratch") as host:
        started = time.monotonic()
        rows = [row[0] for step in range(10) for row in host.score(groups[step::10], step=step, split="train")]
        seconds = time.monotonic() - started
    order = [text for step in range(10) for each in groups[step::10] for text in each.completions]
    expected = [(KILLERS[t], None) if t in KILLERS else (Outcome.OK, float(len(t))) for t in order]
    assert [(score.outcome, score.value) for score in rows] == expected
    killers = sum(text in KILLERS for text in texts)
    assert killers > 120 and seconds < 0.35 * killers + 10
    assert processes_with(str(tmp_path)) == [] and open_files() == before
