"""`runner emulate` and `runner run`: progress on stderr, the report on stdout, and the exit code of the end."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from pathlib import Path

from tests.cli.kit import JOB, REWARDS, as_json, cli, command, environment, make_job

SLOW = "import time\n" + REWARDS.replace("    return len(completion)", "    time.sleep(0.02)\n    return 1")
FAILING = REWARDS.replace("    return len(completion)", "    return 1 / completion.count('e')")


def expecting(bound: str) -> str:
    return JOB.replace("learning_rate: 2}", f"learning_rate: 2, expect: [{{metric: reward, {bound}}}]}}")


def test_a_run_shows_progress_on_stderr_and_what_was_learnt_on_stdout(tmp_path: Path) -> None:
    make_job(tmp_path)
    done = cli("emulate", "colours", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("EMULATED  colours-1  succeeded: all steps are done  step 6/6")
    for words in ("what was learnt", "train  reward", "eval   right", "no signal", "checkpoint step 6", "digest"):
        assert words in done.stdout
    assert "runner completions colours-1 --best" in done.stdout
    assert "step 6/6  reward" in done.stderr
    assert "eval step 0:  reward" in done.stderr and "greedy)" in done.stderr
    assert "evaluation: held-out prompts" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_json_is_one_object_with_state_reason_digest_and_last_metrics(tmp_path: Path) -> None:
    make_job(tmp_path)
    done = cli("emulate", "colours", "--json", cwd=tmp_path)
    ending = as_json(done)
    assert (ending["run"], ending["state"], ending["reason"], ending["emulated"]) == (
        "colours-1", "succeeded", "finished", True,
    )  # fmt: skip
    assert ending["step"] == ending["steps"] == 6
    assert len(ending["digest"]) == 64
    assert 0 <= ending["metrics"]["rewards/right/mean"] <= 1
    assert ending["checkpoint"]["step"] == 6
    assert [item["field"] for item in ending["differences"]] == ["grpo.optim", "evaluation"]


def test_the_same_job_gives_the_same_digest(tmp_path: Path) -> None:
    make_job(tmp_path)
    first, second = (as_json(cli("emulate", "colours", "--json", cwd=tmp_path)) for _ in range(2))
    assert (first["run"], second["run"]) == ("colours-1", "colours-2")
    assert first["digest"] == second["digest"]


def test_an_expectation_that_is_not_met_ends_with_3_and_says_which(tmp_path: Path) -> None:
    make_job(tmp_path, job=expecting("at_least: 5"))
    done = cli("emulate", "colours", cwd=tmp_path)
    assert done.returncode == 3
    assert "✗ reward is" in done.stdout and "expected at least 5" in done.stdout


def test_one_that_is_met_is_told_too(tmp_path: Path) -> None:
    make_job(tmp_path, job=expecting("at_least: 0"))
    assert "✓ 1 expectation met" in cli("emulate", "colours", cwd=tmp_path).stdout


def test_an_invalid_job_starts_nothing(tmp_path: Path) -> None:
    make_job(tmp_path, job=JOB.replace("steps: 6", "steps: 0"))
    done = cli("emulate", "colours", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "grpo.steps" in done.stderr
    assert not (tmp_path / ".runner" / "runs").exists()


def test_several_jobs_run_one_after_another_and_are_counted(tmp_path: Path) -> None:
    make_job(tmp_path, "bad", job="model: 3")
    make_job(tmp_path, "good")
    make_job(tmp_path, "weak", job=expecting("at_least: 5"))
    done = cli("emulate", "jobs", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "1 passed, 2 failed"
    listed = as_json(cli("emulate", "jobs/good", "jobs/weak", "--json", cwd=tmp_path))
    assert (listed["passed"], listed["failed"]) == (1, 1)
    assert [run["state"] for run in listed["runs"]] == ["succeeded", "failed"]


def test_failed_reward_calls_are_shown_when_they_happen_and_in_the_report(tmp_path: Path) -> None:
    make_job(tmp_path, rewards=FAILING)
    done = cli("emulate", "colours", cwd=tmp_path)
    line = "ZeroDivisionError: division by zero (rewards.py:6)"
    assert "reward long failed in " in done.stderr and line in done.stderr
    assert "errors     long: " in done.stdout and line in done.stdout
    assert "runner completions colours-1 --errors" in done.stdout


def test_without_a_gpu_run_says_what_to_do_and_ends_with_5(tmp_path: Path) -> None:
    make_job(tmp_path)
    done = subprocess.run(
        command("run", "colours"), cwd=tmp_path, env={**environment(), "PATH": ""}, capture_output=True, text=True
    )
    assert done.returncode == 5
    assert "runner emulate" in done.stderr and "--device cpu" in done.stderr


def started(tmp_path: Path) -> subprocess.Popen[str]:
    """A slow run in the foreground that has made a few steps."""
    make_job(tmp_path, job=JOB.replace("steps: 6", "steps: 400"), rewards=SLOW)
    args = command("emulate", "colours", "--set", "emulator.steps=400", "--json")
    process = subprocess.Popen(
        args, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    journal = tmp_path / ".runner" / "runs" / "colours-1" / "journal" / "0001.jsonl"
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.read_text().count('"metrics_reported"') > 3):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    return process


def test_ctrl_c_stops_with_a_checkpoint_and_resume_goes_on(tmp_path: Path) -> None:
    process = started(tmp_path)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "then a checkpoint; Ctrl-C again ends at once" in err
    run = as_json(subprocess.CompletedProcess([], 0, out))
    assert (run["state"], run["reason"]) == ("held", "stopped")
    assert run["checkpoint"]["step"] == run["step"] > 0
    shown = cli("show", "colours", cwd=tmp_path)
    assert "runner resume colours-1" in shown.stdout
    resumed = cli("resume", "colours-1", "-d", cwd=tmp_path)
    assert (resumed.returncode, resumed.stdout) == (0, "colours-1\n")
    cancelled = cli("cancel", "colours-1", cwd=tmp_path)
    assert cancelled.returncode == 0


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    process = started(tmp_path)
    process.send_signal(signal.SIGINT)
    time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_sigterm_is_a_stop_too(tmp_path: Path) -> None:
    process = started(tmp_path)
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert as_json(subprocess.CompletedProcess([], 0, out))["state"] == "held"


def test_a_detached_run_goes_on_alone(tmp_path: Path) -> None:
    make_job(tmp_path)
    done = cli("emulate", "colours", "-d", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "colours-1\n")
    followed = cli("logs", "colours-1", "-f", cwd=tmp_path)
    assert "succeeded (finished" in followed.stdout.splitlines()[-1]


def test_on_a_terminal_there_is_a_live_line_with_the_badge(tmp_path: Path) -> None:
    make_job(tmp_path, job=JOB.replace("model: any/model", "model: any/model\nlabels: {x: '[red]y[/red]'}"))
    shown = on_a_terminal(tmp_path, "emulate", "colours")
    assert b"EMULATED" in shown and b"\xe2\x96\x95" in shown  # ▕
    assert b"succeeded" in shown and b"what was learnt" in shown


def on_a_terminal(cwd: Path, *args: str) -> bytes:
    """What the command line writes to a terminal."""
    ours, theirs = pty.openpty()
    env = {**environment(), "TERM": "xterm-256color", "COLUMNS": "120"}
    process = subprocess.Popen(command(*args), cwd=cwd, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            block = os.read(ours, 65536)
        except OSError:  # Linux: the other side is closed
            break
        if not block:
            break
        shown += block
    os.close(ours)
    assert process.wait(timeout=60) == 0
    return shown
