"""Answers to fast calls gather before they are sent: which call runs, and what was answered, is known all the same."""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter, deque
from pathlib import Path

import pytest

from runner.rewards.bundle import build, write
from runner.rewards.calls import Call
from runner.rewards.channel import DRAFT_BYTES, LENGTH, frame_of, read_draft
from runner.rewards.contract import Outcome
from runner.rewards.host import RewardHost
from runner.rewards.processes import Worker
from runner.spec.model import Reward
from tests.rewards.helpers import group, version_of

CALLS = [Call(number, 0, number, 0) for number in range(4)]


def test_a_short_deadline_holds_behind_answers_with_a_longer_one(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(
        "import time\n"
        "def patient(p, c, e):\n    return 1.0\n"
        "def brief(p, c, e):\n    return time.sleep(60) if c == 'hang' else 2.0\n"
    )
    rewards = {
        "patient": Reward(fn="rewards.py:patient", timeout=50),
        "brief": Reward(fn="rewards.py:brief", timeout=0.3),
    }
    with RewardHost(write(build(rewards, tmp_path), tmp_path / "versions"), seed=0) as host:
        began = time.monotonic()
        rows = host.score([group(["a", "b", "hang", "c"])], step=1, split="train")
    assert time.monotonic() - began < 20
    assert [row[0].value for row in rows] == [1.0] * 4
    assert [row[1].value for row in rows] == [2.0, 2.0, None, 2.0]
    assert rows[2][1].outcome is Outcome.TIMEOUT


def test_a_long_deadline_holds_behind_answers_with_a_shorter_one(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(
        "import time\n"
        "def brief(p, c, e):\n    return 1.0\n"
        "def patient(p, c, e):\n    time.sleep(0.5 if c == 'slow' else 0)\n    return 2.0\n"
    )
    rewards = {
        "brief": Reward(fn="rewards.py:brief", timeout=0.1),
        "patient": Reward(fn="rewards.py:patient", timeout=50),
    }
    with RewardHost(write(build(rewards, tmp_path), tmp_path / "versions"), seed=0) as host:
        rows = host.score([group(["a", "b", "slow", "c"])], step=1, split="train")
    assert [[score.value for score in row] for row in rows] == [[1.0, 2.0]] * 4


def test_what_was_answered_before_a_death_is_not_asked_for_again(tmp_path: Path) -> None:
    source = """
        import os
        def score(prompt, completion, example):
            with open("made", "a") as file:
                file.write(completion)
            if completion == "d":
                os._exit(3)
            return 1.0
    """
    scratch = tmp_path / "scratch"
    with RewardHost(version_of(tmp_path, source), seed=0, workers=1, scratch=scratch) as host:
        rows = host.score([group(list("abcdefgh"))], step=1, split="train")
    assert [row[0].value for row in rows] == [1.0, 1.0, 1.0, None, 1.0, 1.0, 1.0, 1.0]
    assert Counter((scratch / "made").read_text()) == Counter("abcddefgh"), "the deadly one is tried twice, no other"


def said(number: int) -> bytes:
    return frame_of([number, "ok", 1.0, None, None, None, 0.0])


def draft(*frames: bytes) -> bytes:
    text = b"".join(frames)
    return LENGTH.pack(LENGTH.size + len(text)) + text


@pytest.mark.parametrize(
    ("written", "running"),
    [
        (b"", 0),
        (draft(said(0), said(1)), 2),
        (draft(said(0), said(1), said(2), said(3)), 3),
        (draft(said(0), said(2)), 1),
        (draft(said(7)), 0),
        (draft(said(0), b"\xff\xff\xff\xff"), 1),
        (draft(said(0), frame_of([1, "ok", None, None, None, None, 0.0])), 1),
        (draft(said(0), frame_of("x")), 1),
        (draft(frame_of(json.loads("[" * 200 + "]" * 200))), 0),
        (b"\xff" * (2 * DRAFT_BYTES), 0),
    ],
)
def test_whatever_stands_in_a_draft_one_of_the_calls_given_is_the_one_that_runs(
    tmp_path: Path, written: bytes, running: int
) -> None:
    ours, theirs = socket.socketpair()
    worker = Worker(ours, tmp_path)
    worker.messages.append(deque(CALLS))
    os.pwrite(worker.descriptors[2], written, 0)
    worker.look_at_draft()
    assert worker.current is CALLS[running]
    assert worker.unstarted() == CALLS[running + 1 :]
    os.ftruncate(worker.descriptors[2], 2)
    assert read_draft(worker.descriptors[2]) == b""
    worker.close()
    theirs.close()
