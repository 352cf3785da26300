"""What a job opens to its rewards and keeps from them, over the whole way of a run."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner import api
from runner.spec.errors import JobError
from tests.rewards.helpers import needs_sandbox
from tests.small_job import write_job

VALUE = "sk-4f9a1c7be2d04d51"
SHORT = {"steps": 3, "prompts_per_step": 2}


def rows(home: Path, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(f"file:{home}/.runner/runner.db?mode=ro", uri=True) as db:
        return db.execute(sql).fetchall()


@needs_sandbox
def test_a_run_records_what_its_machine_keeps(tmp_path: Path) -> None:
    api.emulate(write_job(tmp_path, grpo=SHORT), home=tmp_path)
    ((data,),) = rows(tmp_path, "SELECT data FROM events WHERE type = 'sandbox_checked'")
    found = {row["name"]: row["state"] for row in json.loads(data)["guarantees"]}
    names = ["memory", "network", "filesystem", "secrets", "signals", "subprocess"]
    assert found == dict.fromkeys(names, "enforced")


WITHOUT_LANDLOCK = """
import errno, sys
from runner.cli import main
from runner.rewards import confine, seccomp
confine._prctl(confine.PR_SET_NO_NEW_PRIVS, 1)
seccomp.install([seccomp.refuse("landlock_create_ruleset", errno.ENOSYS)])
main()
"""


@needs_sandbox
def test_a_run_that_requires_what_the_machine_lacks_does_not_start(tmp_path: Path) -> None:
    job = write_job(tmp_path, grpo=SHORT, sandbox={"require": ["filesystem"]})
    command = [sys.executable, "-c", WITHOUT_LANDLOCK, "emulate", str(job), "--home", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 5
    assert "sandbox.require: filesystem is not enforced on this machine" in done.stdout + done.stderr
    assert rows(tmp_path, "SELECT state, reason FROM runs") == [("held", "environment")]
    assert rows(tmp_path, "SELECT count(*) FROM rollouts") == [(0,)]


@needs_sandbox
def test_what_is_not_enforced_and_not_required_is_an_alert(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_LANDLOCK, "emulate", str(write_job(tmp_path, grpo=SHORT))]
    done = subprocess.run([*command, "--home", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ((message,),) = rows(tmp_path, "SELECT data->>'message' FROM events WHERE type = 'alert'")
    assert message.startswith("not enforced on this machine for reward code: filesystem (could read a file outside")


def test_a_secret_reaches_the_rewards_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_JUDGE_KEY", VALUE)
    source = """
import os
def right(prompt, completion, example):
    print(os.environ["KEY"])
    return {"score": len(os.environ["KEY"]), "reason": os.environ["KEY"]}
def short(prompt, completion, example):
    raise ValueError(os.environ["KEY"])
"""
    job = write_job(tmp_path, source, grpo=SHORT, secrets={"KEY": {"env": "OUR_JUDGE_KEY"}})
    run = api.emulate(job, home=tmp_path, overrides=["rewards.short.weight=0"])
    assert run.row.state == "succeeded", run.row.detail
    said = rows(tmp_path, "SELECT DISTINCT value, reason, output FROM scores WHERE name = 'right'")
    assert said == [(float(len(VALUE)), "[secret KEY]", "[secret KEY]\n")]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if VALUE.encode() in path.read_bytes()]


def test_a_secret_that_is_not_there_is_found_before_anything_starts(tmp_path: Path) -> None:
    job = write_job(tmp_path, grpo=SHORT, secrets={"KEY": {"env": "NO_SUCH_KEY"}})
    with pytest.raises(JobError) as caught:
        api.emulate(job, home=tmp_path)
    (finding,) = caught.value.findings
    assert finding.message == "the secret KEY is not there: the environment variable NO_SUCH_KEY can't be read"
    assert "secrets:" in job.read_text().splitlines()[finding.line - 2]


def test_what_a_reward_logs_is_a_metric_of_the_step(tmp_path: Path) -> None:
    source = """
def right(prompt, completion, example, ctx):
    ctx.log_metric("progress", ctx.progress)
    ctx.log_metric("tokens", ctx.n_tokens)
    return 1.0 if completion.endswith(str(example["sum"])) else 0.0
def short(prompt, completion, example):
    return len(completion)
"""
    run = api.emulate(write_job(tmp_path, source, grpo={**SHORT, "steps": 4}), home=tmp_path)
    assert run.metrics("rewards/right/progress") == [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)]
    assert run.metrics("rewards/right/tokens")[0][1] == run.metrics("completions/mean_length")[0][1]


def test_a_budget_that_is_used_up_ends_the_run_and_says_so(tmp_path: Path) -> None:
    job = write_job(tmp_path, grpo={"steps": 50})
    run = api.emulate(job, home=tmp_path, overrides=["rewards.right.budget={calls: 50}"])
    assert (run.row.state, run.row.reason) == ("failed", "reward_error")
    assert run.row.detail == (
        "right: not called: its budget of 50 calls is used up; `rewards.right.budget` in the job says so"
    )
    made = rows(tmp_path, "SELECT count(*) FROM scores WHERE name = 'right' AND outcome != 'budget'")
    assert made == [(50,)]
