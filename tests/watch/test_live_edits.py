"""Edits that act on a run which is there already: rewards, limits, priority, retry, reload."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.grpo.guards import LiveLimits
from runner.journal.states import Reason, State
from runner.spec.model import Limits
from tests.small_job import REWARDS, write_job
from tests.watch.kit import Folder, WatchProcess, rows, until
from tests.watch.test_watch import LONG, home, running

__all__ = ["home"]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_edits_of_rewards_go_live_in_a_run_of_the_watch_and_of_the_next_watch(home: Path) -> None:
    job = write_job(home, **LONG)
    rewards = job.parent / "rewards.py"
    watch = WatchProcess(home, "--emulate")
    running(watch, "sums-1")
    rewards.write_text(REWARDS.replace("1.0", "2.0"))
    watch.wait_for("reward_version", run="sums-1", version=2, state="active")
    rewards.write_text("def right(:\n")
    refused = watch.wait_for("reward_version", run="sums-1", state="rejected")
    assert "rewards.py" in refused["error"] and refused["level"] == "warning"
    watch.end()
    rewards.write_text(REWARDS.replace("1.0", "3.0"))
    watch = WatchProcess(home, "--emulate")
    watch.wait_for("reward_version", run="sums-1", state="active")
    until(lambda: rows(home, "SELECT 1 FROM metrics WHERE name = 'rewards/right/mean' AND value > 2"))
    job.write_text(job.read_text() + "reload: 'off'\n")
    rewards.write_text(REWARDS.replace("1.0", "4.0"))
    watch.wait_for("ready")
    assert rows(home, "SELECT count(*) FROM runs") == [(1,)]
    job.write_text(job.read_text() + "limits: {max_tokens: 1}\n")
    said = watch.wait_for("run", run="sums-1", state="timed_out")
    assert said["reason"] == "token_limit"
    assert watch.heard("live_edit")[0]["changed"] == "limits.max_tokens None → 1"
    assert rows(home, "SELECT max(value) < 3.5 FROM metrics WHERE name = 'rewards/right/mean'") == [(1,)]
    assert watch.end() == 0


def test_new_limits_and_a_new_priority_reach_every_run_that_has_not_ended(folder: Folder) -> None:
    folder.write(priority=1)
    folder.settle()
    folder.finish("sums-1", Reason.STOPPED, State.HELD)
    folder.write(priority=2, limits={"max_duration": "2h"}, labels={"team": "red"})
    folder.settle()
    assert folder.runs() == [("sums-1", "held")]
    assert folder.store.run("sums-1").priority == 2
    live = json.loads((folder.path / ".runner/runs/sums-1/live.json").read_text())
    assert live == {"limits": {"max_duration": "2h", "max_tokens": None}}
    changed = [said["changed"] for said in folder.said if said["event"] == "live_edit"]
    assert changed == ["priority 1 → 2; limits.max_duration None → 2h"]


def test_limits_that_are_taken_back_hold_no_more(folder: Folder) -> None:
    folder.write(limits={"max_tokens": 5})
    folder.settle()
    folder.begin("sums-1")
    folder.write()
    folder.settle()
    live = LiveLimits(folder.path / ".runner/runs/sums-1/live.json", Limits(max_tokens=5))
    assert live().max_tokens is None


def test_a_new_retry_policy_is_asked_of_the_file(folder: Folder) -> None:
    folder.write()
    folder.settle()
    folder.write(retry={"max": 7})
    folder.settle()
    policy = folder.desk.retry_of(folder.store.run("sums-1"))
    assert policy is not None and policy.max == 7


def test_without_an_edit_the_limits_are_those_of_the_submission(tmp_path: Path) -> None:
    assert LiveLimits(tmp_path / "live.json", Limits(max_tokens=5))().max_tokens == 5
