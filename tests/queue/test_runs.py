"""A run's whole way on this machine, with real processes and signals."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils.utils import sqlite3

from runner import api
from runner.store import queries
from runner.store.errors import StoreError
from runner.store.rows import RunRow
from tests.small_job import REWARDS, write_job


def rows(home: Path, sql: str, *params: object) -> list[tuple[Any, ...]]:
    """What is in the database. (Python's own sqlite3 may not open it in a process that has it open by pysqlite3.)"""
    with sqlite3.connect(f"file:{home}/.runner/runner.db?mode=ro", uri=True) as db:
        return db.execute(sql, params).fetchall()


def everything(home: Path, run_id: str) -> dict[str, list[tuple[Any, ...]]]:
    """All that a run recorded, without what depends on the clock."""
    return {
        "rollouts": rows(
            home,
            "SELECT split, step, group_id, idx, example_id, completion, n_tokens, finish_reason, reward, advantage, "
            "reward_version FROM rollouts WHERE run_id = ? ORDER BY 1, 2, 3, 4",
            run_id,
        ),
        "scores": rows(
            home,
            "SELECT split, step, group_id, idx, name, value, outcome, reason, output FROM scores "
            "JOIN rollouts ON rollouts.id = rollout_id WHERE run_id = ? ORDER BY 1, 2, 3, 4, 5",
            run_id,
        ),
        "metrics": rows(
            home,
            "SELECT name, step, value FROM metrics WHERE run_id = ? AND name NOT GLOB '*time*' ORDER BY 1, 2",
            run_id,
        ),
        "examples": rows(home, "SELECT id, prompt, columns FROM examples WHERE run_id = ? ORDER BY 1", run_id),
        "checkpoints": rows(home, "SELECT step, kept, weights FROM checkpoints WHERE run_id = ?", run_id)[-1:],
        "versions": rows(
            home, "SELECT version, sha256, state, first_step FROM reward_versions WHERE run_id = ?", run_id
        ),
    }


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        direct = [int(child) for child in children.read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(p for child in direct for p in tree(child))]


def alive(pid: int) -> bool:
    """Whether the process still runs; a zombie that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill_tree(pid: int) -> None:
    for process in tree(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def ended(run: api.RunHandle) -> RunRow:
    """The run's row once the kernel has cleared its processes away."""
    until(lambda: not run.row.state.is_live)
    return run.row


def test_a_run_records_everything_and_learns(tmp_path: Path) -> None:
    run = api.emulate(write_job(tmp_path, grpo={"steps": 30}), home=tmp_path)
    assert (run.row.state, run.row.reason, run.row.detail) == ("succeeded", "finished", "step 30 of 30")
    assert rows(tmp_path, "SELECT split, count(*) FROM rollouts GROUP BY split") == [("eval", 7 * 4), ("train", 480)]
    assert rows(tmp_path, "SELECT count(*) FROM scores WHERE outcome = 'ok'") == [(2 * (480 + 28),)]
    right = run.metrics("rewards/right/mean")
    assert [step for step, _ in right] == list(range(1, 31))
    assert right[-1][1] > right[0][1] + 0.2
    assert [step for step, _ in run.metrics("eval/rewards/right/mean")] == [0, 5, 10, 15, 20, 25, 30]


def test_advantages_of_a_group_sum_to_zero_and_the_version_stands_with_every_rollout(tmp_path: Path) -> None:
    run = api.emulate(write_job(tmp_path), home=tmp_path)
    sums = rows(tmp_path, "SELECT abs(sum(advantage)) FROM rollouts WHERE split = 'train' GROUP BY step, group_id")
    assert max(total for (total,) in sums) < 1e-9
    [(version,)] = rows(tmp_path, "SELECT sha256 FROM reward_versions WHERE state = 'active'")
    assert rows(tmp_path, "SELECT DISTINCT reward_version FROM rollouts") == [(version,)]
    assert (run.folder / "rewards" / version / "rewards.py").read_text() == REWARDS


def test_equal_jobs_have_equal_digests_and_another_seed_has_another(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    first, second = api.emulate(job, home=tmp_path), api.emulate(job, home=tmp_path)
    other = api.emulate(job, home=tmp_path, overrides=["seed=1"])
    assert first.row.digest == second.row.digest
    assert first.row.digest != other.row.digest


def test_killed_at_twenty_random_moments_and_resumed_it_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    job = write_job(tmp_path, grpo={"steps": 1200}, checkpoints={"every": 7}, evaluation={"every": 10})
    whole = api.emulate(job, home=tmp_path)
    broken = killed_and_resumed(job, tmp_path, kills=20, events=60)
    assert len(rows(tmp_path, "SELECT n FROM attempts WHERE run_id = ?", broken.id)) == 21
    assert broken.row.state == "succeeded"
    assert everything(tmp_path, broken.id) == everything(tmp_path, whole.id)
    assert broken.row.digest == whole.row.digest


@pytest.mark.lm
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_a_language_model_that_is_killed_and_resumed_ends_with_the_same_weights(tmp_path: Path, kills: int) -> None:
    job = Path("jobs/examples/countdown")
    small = [
        f"emulator.steps={8 * kills}",
        "emulator.prompts_per_step=4",
        "emulator.evaluate_every=5",
        "evaluation.limit=8",
        "checkpoints.every=2",
        "emulator.expect=[]",
    ]
    whole = api.emulate(job, home=tmp_path, overrides=small)
    assert whole.row.state == "succeeded", whole.row.detail
    broken = killed_and_resumed(job, tmp_path, kills=kills, events=9, overrides=small)
    assert broken.row.state == "succeeded"
    assert everything(tmp_path, broken.id) == everything(tmp_path, whole.id)
    assert broken.row.digest == whole.row.digest


def killed_and_resumed(
    job: Path, home: Path, *, kills: int, events: int, overrides: Sequence[str] = ()
) -> api.RunHandle:
    """The run after `kills` times kill -9 of its whole process tree, a resume behind each: one in four while it starts,
    the others after a random number of its first `events` events."""
    moments = random.Random(7)
    run = api.emulate(job, home=home, overrides=overrides, wait=False)
    for attempt in range(1, kills + 1):
        journal = run.folder / f"journal/{attempt:04d}.jsonl"
        if attempt % 4 == 0:
            time.sleep(moments.uniform(0, 0.3))
        else:
            wanted = moments.randint(1, events)
            until(
                lambda journal=journal, wanted=wanted: journal.exists() and journal.read_bytes().count(b"\n") >= wanted
            )
        assert run._started is not None
        kill_tree(run._started.supervisor.pid)
        run._started.supervisor.wait()
        assert (ended(run).state, run.row.reason) == ("held", "lost"), "it was over before it was killed often enough"
        run = api.resume(run.id, home=home, wait=False)
    run.wait()
    return run


def test_no_process_survives_a_killed_supervisor(tmp_path: Path) -> None:
    slow = "import time\ndef right(prompt, completion, example):\n    time.sleep(5)\n    return 1.0\n"
    job = write_job(tmp_path, rewards=slow + "def short(prompt, completion, example):\n    return 0.0\n")
    run = api.emulate(job, home=tmp_path, wait=False)
    assert run._started is not None
    supervisor = run._started.supervisor
    until(lambda: len(tree(supervisor.pid)) >= 4)
    family = tree(run._started.supervisor.pid)
    assert len(family) >= 4, "supervisor, trainer, zygote, workers"
    os.kill(family[0], signal.SIGKILL)
    run._started.supervisor.wait()
    until(lambda: not any(alive(pid) for pid in family), seconds=5)


def test_a_stop_leaves_a_checkpoint_and_says_so_and_resume_goes_on_from_it(tmp_path: Path) -> None:
    job = write_job(tmp_path, grpo={"steps": 20000}, checkpoints={"every": 10000}, evaluation={"every": 10000})
    run = api.emulate(job, home=tmp_path, wait=False)
    until(lambda: run.metrics("reward"))
    run.stop()
    assert (run.wait().state, run.row.reason) == ("held", "stopped")
    stopped_at = run.row.last_step
    assert 0 < stopped_at < 20000
    assert rows(tmp_path, "SELECT step, kept FROM checkpoints") == [(stopped_at, 1)]
    resumed = api.resume(run.id, home=tmp_path, wait=False)
    until(lambda: len(resumed.metrics("reward")) > stopped_at)
    assert rows(tmp_path, "SELECT n, resumed_step FROM attempts") == [(1, None), (2, stopped_at)]
    resumed.cancel()
    assert (resumed.wait().state, resumed.row.reason) == ("cancelled", "cancelled")


def test_a_second_stop_ends_at_once(tmp_path: Path) -> None:
    hang = "import time\ndef right(p, c, example):\n    time.sleep(8)\ndef short(p, c, example):\n    return 0.0\n"
    run = api.emulate(write_job(tmp_path, rewards=hang), home=tmp_path, wait=False)
    until(lambda: run.row.state == "running")
    run.stop()
    time.sleep(0.2)
    run.stop()
    began = time.monotonic()
    assert (run.wait().state, run.row.reason) == ("held", "stopped")
    assert time.monotonic() - began < 3
    assert "without a checkpoint" in run.row.detail


def test_the_run_stops_when_its_starter_is_gone(tmp_path: Path) -> None:
    job = write_job(tmp_path, grpo={"steps": 5000})
    code = f"from runner import api; from pathlib import Path; api.emulate({str(job)!r}, home=Path({str(tmp_path)!r}))"
    starter = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: _started(tmp_path))
    starter.kill()
    starter.wait()
    run = api.open_run("sums", home=tmp_path)
    assert (ended(run).state, run.row.reason) == ("held", "stopped")
    assert rows(tmp_path, "SELECT max(step) FROM checkpoints") == [(run.row.last_step,)]


def _started(home: Path) -> bool:
    journal = home / ".runner/runs/sums-1/journal/0001.jsonl"
    return journal.exists() and b"metrics_reported" in journal.read_bytes()


def test_a_detached_run_outlives_its_starter(tmp_path: Path) -> None:
    job = write_job(tmp_path, grpo={"steps": 100})
    code = (
        f"from runner import api; from pathlib import Path; "
        f"api.emulate({str(job)!r}, home=Path({str(tmp_path)!r}), detach=True)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert api.open_run("sums", home=tmp_path).wait().state == "succeeded"


def test_many_can_look_at_a_run_while_it_starts_trains_and_ends(tmp_path: Path) -> None:
    job = write_job(tmp_path, grpo={"steps": 60})
    run = api.emulate(job, home=tmp_path, wait=False)
    look = f"from runner import api; from pathlib import Path; r = api.open_run('sums-1', home=Path({str(tmp_path)!r}))"
    code = f"{look}\nwhile r.row.state in ('queued', 'starting', 'running'): pass\nprint(r.row.state)"
    lookers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    run.wait()
    assert [looker.communicate(timeout=30)[0].strip() for looker in lookers] == ["succeeded"] * 3
    assert len(rows(tmp_path, "SELECT id FROM transitions WHERE to_state = 'running'")) == 1


def test_what_is_expected_and_not_met_is_failed_with_its_own_reason(tmp_path: Path) -> None:
    job = write_job(tmp_path, emulator={"expect": [{"metric": "rewards/right/mean", "at_least": 2}]})
    row = api.emulate(job, home=tmp_path).row
    assert (row.state, row.reason) == ("failed", "expect_not_met")
    assert "rewards/right/mean is" in row.detail and "expected at least 2" in row.detail


def test_a_reward_that_cannot_be_imported_is_reported_with_its_line(tmp_path: Path) -> None:
    broken = "import math\n\nX = 1 / 0\n" + REWARDS
    row = api.emulate(write_job(tmp_path, rewards=broken), home=tmp_path).row
    assert (row.state, row.reason) == ("failed", "reward_error")
    assert "rewards.py" in row.detail + (row.error or "") and "ZeroDivisionError" in row.detail + (row.error or "")
    assert "line 3" in row.detail + (row.error or "") or "rewards.py:3" in row.detail + (row.error or "")


def test_calls_that_fail_are_recorded_and_their_completions_leave_the_group(tmp_path: Path) -> None:
    sometimes = REWARDS.replace(
        "    print(", '    if completion == "no idea":\n        raise ValueError("bad")\n    print('
    )
    run = api.emulate(write_job(tmp_path, rewards=sometimes, grpo={"steps": 2}), home=tmp_path)
    row = run.row
    failed = rows(
        tmp_path,
        "SELECT reward, advantage, outcome, error FROM rollouts JOIN scores ON rollout_id = rollouts.id "
        "WHERE completion = 'no idea' AND name = 'short'",
    )
    assert failed and all(outcome == "exception" for _, _, outcome, _ in failed)
    assert all(reward is None and advantage == 0.0 for reward, advantage, _, _ in failed)
    assert "ValueError: bad" in failed[0][3] and "rewards.py" in failed[0][3]
    assert row.state in ("succeeded", "failed")


def test_a_final_run_is_not_resumed_and_says_what_to_do(tmp_path: Path) -> None:
    run = api.emulate(write_job(tmp_path), home=tmp_path)
    with pytest.raises(StoreError, match="runner rerun sums --from sums-1@20"):
        api.resume(run.id, home=tmp_path)
    with pytest.raises(StoreError, match="nothing to cancel"):
        api.cancel(run.id, home=tmp_path)


def test_a_rerun_from_a_checkpoint_goes_on_there_under_a_parent(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    first = api.emulate(job, home=tmp_path)
    job.write_text(job.read_text().replace("steps: 20", "steps: 25"))
    second = api.rerun(first.id, at=20, home=tmp_path)
    assert second.row.state == "succeeded"
    assert second.row.parent == "sums-1@20"
    assert [step for step, _ in second.metrics("reward")] == [21, 22, 23, 24, 25]


def test_changed_data_refuses_a_resume_and_says_why(tmp_path: Path) -> None:
    job = write_job(tmp_path, grpo={"steps": 5000})
    run = api.emulate(job, home=tmp_path, wait=False)
    until(lambda: run.metrics("reward"))
    run.stop()
    run.wait()
    copy = run.folder / "source/data.jsonl"
    copy.write_text(copy.read_text() + json.dumps({"a": 9, "b": 9, "sum": 18}) + "\n")
    row = api.resume(run.id, home=tmp_path).row
    assert row.reason == "invalid" and "has changed since" in row.detail


def test_a_full_disk_holds_the_run_and_it_goes_on_when_there_is_space(tmp_path: Path, small_disk: Path) -> None:
    job = write_job(tmp_path, grpo={"steps": 5000}, checkpoints={"every": 5}, evaluation={"every": 5000})
    home = small_disk / "home"
    home.mkdir()
    run = api.emulate(job, home=home, wait=False)
    assert run._started is not None
    run._started.supervisor.wait()
    filler = home / "filler"
    assert not filler.exists()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert (run.row.state, run.row.reason) == ("held", "disk_full")
    resumed = api.resume(run.id, home=home, wait=False)
    before = run.row.last_step
    until(lambda: len(resumed.metrics("reward")) > before)
    resumed.cancel()
    resumed.wait()
    steps = [step for step, _ in resumed.metrics("reward")]
    assert steps == list(range(1, len(steps) + 1))


def test_the_database_holds_the_sources_of_a_reward_version(tmp_path: Path) -> None:
    run = api.emulate(write_job(tmp_path), home=tmp_path)
    with run.reading() as store:
        [version] = queries.reward_versions(store, run.id)
    assert version.source is not None
    assert json.loads(version.source) == {"rewards.py": REWARDS}
