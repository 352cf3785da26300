"""A run that a warm process forks keeps every promise of a run with processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import api
from runner.ci.probe import Probed
from runner.ci.warm import Child, Warm, WarmLost, may_train_lm
from runner.queue.local import Started
from tests.cli.kit import environment
from tests.queue.test_runs import alive, ended, tree, until
from tests.small_job import REWARDS, write_job

LONG = {"steps": 20000}


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    with Warm.start() as process:
        yield process


def started(job: Path, home: Path, warm: Warm, *overrides: str) -> api.RunHandle:
    handle = api.submit(job, backend="emulator", home=home, overrides=overrides)
    assert handle.start(spawn=warm.spawn) == ""
    return handle


def child_of(handle: api.RunHandle) -> Child:
    child = handle.supervisor
    assert isinstance(child, Child)
    return child


def test_it_comes_to_the_same_as_a_run_alone_and_leaves_the_same_files(tmp_path: Path, warm: Warm) -> None:
    job = write_job(tmp_path)
    alone = api.emulate(job, home=tmp_path)
    forked = [started(job, tmp_path, warm).wait() for _ in range(2)]
    for run in forked:
        assert (run.state, run.row.digest) == ("succeeded", alone.row.digest)
        assert sorted(path.name for path in (run.folder / "attempts/0001").iterdir()) == [
            "exit.json", "handle.json", "trainer.log",
        ]  # fmt: skip
        ending = json.loads((run.folder / "attempts/0001/exit.json").read_text())
        assert (ending["exit_code"], ending["signal"], ending["killed"]) == (0, None, False)
        assert (run.folder / "attempts/0001/trainer.log").read_text() == ""


@pytest.mark.lm
def test_a_language_model_ends_with_the_same_weights_too(tmp_path: Path, warm: Warm) -> None:
    small = ["emulator.steps=3", "emulator.prompts_per_step=2", "evaluation.limit=4", "emulator.expect=[]"]
    job = Path("jobs/examples/countdown")
    alone = api.emulate(job, home=tmp_path, overrides=small)
    forked = started(job, tmp_path, warm, *small).wait()
    assert forked.row.digest == alone.row.digest is not None


def test_the_lock_says_that_it_lives_and_is_free_when_it_is_gone(tmp_path: Path, warm: Warm) -> None:
    run = started(write_job(tmp_path, grpo=LONG), tmp_path, warm)
    until(lambda: run.metrics("reward"))
    folder = run.home.run(run.id)
    assert folder.take_lock() is None
    run.stop()
    assert (run.wait().state, run.row.reason) == ("held", "stopped")
    lock = folder.take_lock()
    assert lock is not None
    os.close(lock)
    assert run.row.last_step in [int(path.name[5:]) for path in folder.checkpoints.glob("step-*")]


def test_a_stop_that_comes_at_once_is_not_lost(tmp_path: Path, warm: Warm) -> None:
    run = started(write_job(tmp_path, grpo=LONG), tmp_path, warm)
    run.stop()
    assert (run.wait().state, run.row.reason) == ("held", "stopped")
    resumed = api.resume(run.id, home=tmp_path, wait=False)
    until(lambda: resumed.metrics("reward"))
    resumed.cancel()
    assert resumed.wait().state == "cancelled"


def test_a_second_stop_ends_at_once_and_nothing_survives(tmp_path: Path, warm: Warm) -> None:
    hang = "import time\ndef right(p, c, example):\n    time.sleep(60)\ndef short(p, c, example):\n    return 0.0\n"
    run = started(write_job(tmp_path, rewards=hang), tmp_path, warm)
    until(lambda: len(tree(child_of(run).pid)) >= 4)
    family = tree(child_of(run).pid)
    run.stop()
    time.sleep(0.3)
    run.stop()
    assert (run.wait().state, run.row.reason) == ("held", "stopped")
    assert "without a checkpoint" in run.row.detail
    until(lambda: not any(alive(pid) for pid in family))


def test_a_killed_supervisor_takes_its_trainer_and_its_rewards_along(tmp_path: Path, warm: Warm) -> None:
    run = started(write_job(tmp_path, grpo=LONG), tmp_path, warm)
    until(lambda: run.metrics("reward"))
    family = tree(child_of(run).pid)
    assert len(family) >= 4, "supervisor, trainer, zygote, workers"
    child_of(run).kill()
    until(lambda: not any(alive(pid) for pid in family))
    assert (run.wait().state, run.row.reason) == ("held", "lost")


def test_when_the_starter_is_killed_the_run_stops_with_a_checkpoint(tmp_path: Path) -> None:
    job = write_job(tmp_path, grpo=LONG)
    code = (
        "import sys\nfrom runner import api\nfrom runner.ci.warm import Warm\n"
        "warm = Warm.start()\nrun = api.submit(sys.argv[1], backend='emulator', home=sys.argv[2])\n"
        "run.start(spawn=warm.spawn)\nrun.wait()\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, str(job), str(tmp_path)], env=environment())
    journal = tmp_path / ".runner/runs/sums-1/journal/0001.jsonl"
    until(lambda: journal.exists() and b"metrics_reported" in journal.read_bytes())
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    run = ended(api.open_run("sums", home=tmp_path))
    assert (run.state, run.reason) == ("held", "stopped")


def test_a_lost_warm_process_is_told_and_what_it_has_started_goes_on(tmp_path: Path) -> None:
    warm = Warm.start()
    run = started(write_job(tmp_path), tmp_path, warm)
    warm.process.kill()
    warm.process.wait()
    other = api.submit(write_job(tmp_path, name="other"), backend="emulator", home=tmp_path)
    with pytest.raises(WarmLost):
        other.start(spawn=warm.spawn)
    assert run.wait().state == "succeeded"
    warm.close()


def test_the_second_try_finds_nothing_in_a_sound_run(tmp_path: Path, warm: Warm) -> None:
    run = started(write_job(tmp_path), tmp_path, warm).wait()
    before = sorted(path for path in run.folder.rglob("*"))
    child = warm.probe(run.folder)
    child.wait()
    found = Probed.from_json(child.said)
    assert [(item.name, item.calls, item.differing) for item in found.twice] == [("right", 32, 0), ("short", 32, 0)]
    assert (found.resumed.steps, found.resumed.stopped_after, found.resumed.difference) == (4, 2, "")
    assert sorted(path for path in run.folder.rglob("*")) == before


def test_the_second_try_sees_when_what_was_recorded_is_not_what_comes_again(tmp_path: Path, warm: Warm) -> None:
    run = started(write_job(tmp_path), tmp_path, warm).wait()
    journal = run.folder / "journal/0001.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    changed = [line.replace('"completion":"', '"completion":"x', 1) if '"step":3,' in line else line for line in lines]
    journal.write_text("".join(changed))
    child = warm.probe(run.folder)
    child.wait()
    assert Probed.from_json(child.said).resumed.difference.startswith("step 3: completion 0")


def test_rewards_that_depend_on_the_clock_or_on_calls_before_are_found(tmp_path: Path, warm: Warm) -> None:
    moody = "import time\nN = []\n\n" + REWARDS.replace(
        "return 1.0 if", "N.append(1)\n    return len(N) if len(N) > 0 else 1.0 if"
    )
    run = started(write_job(tmp_path, rewards=moody), tmp_path, warm).wait()
    child = warm.probe(run.folder)
    child.wait()
    twice = {item.name: item for item in Probed.from_json(child.said).twice}
    assert twice["right"].differing > 0 and ", then " in twice["right"].example
    assert twice["short"].differing == 0


def test_it_looks_into_the_jobs_for_the_language_model_before_they_are_read(tmp_path: Path) -> None:
    replay = write_job(tmp_path)
    assert not may_train_lm([str(replay), "--no-checks", "no-such-job"])
    (tmp_path / "jobs/lm").mkdir()
    (tmp_path / "jobs/lm/job.yaml").write_text("emulator: {policy: lm}\n")
    assert may_train_lm([str(tmp_path / "jobs/lm")])
    assert may_train_lm([str(tmp_path / "jobs")])


def test_a_warm_process_of_a_command_that_fails_goes_with_it(tmp_path: Path) -> None:
    code = (
        "import os, sys\nimport runner.cli\nsys.argv = ['runner', 'emulate', '--no-such-option']\n"
        "try:\n    runner.cli.main()\n"
        "finally:\n    print(open(f'/proc/self/task/{os.getpid()}/children').read())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (2, "")


def test_a_warm_process_that_was_not_wanted_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for seconds in (0.0, 0.3, 0.6, 0.9):
        warm = Warm.start(for_lm=True)
        time.sleep(seconds)
        family = tree(warm.process.pid)
        warm.close()
        until(lambda family=family: not any(alive(pid) for pid in family))
    assert list(tmp_path.iterdir()) == []


def test_rest_lasts_until_the_supervisor_is_gone_and_no_longer(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.3)"])
    started = Started(run_id="run", supervisor=process, pipe=None)
    began = time.monotonic()
    started.rest(0.05)
    assert process.poll() is None
    started.rest(30)
    assert process.wait() == 0 and time.monotonic() - began < 20
