"""`runner emulate` as CI calls it: rows with verdicts, one exit code from the same rows, several jobs and seeds."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from runner.ci.pool import cores
from tests.cli.kit import as_json, cli, command, environment
from tests.small_job import REWARDS, write_job

MET = {"metric": "rewards/right/mean", "last": 5, "at_least": 0.5}
MOODY = "import time\n" + REWARDS.replace("return 1.0 if", "return time.time() if")
FAILING = REWARDS.replace("    print(", '    if completion == "no idea":\n        raise ValueError("bad")\n    print(')
CONSTANT = REWARDS.replace("1 / (1 + len(completion))", "0.5")


def verdicts(result: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["verdict"] for check in result["checks"]}


def row(result: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [check for check in result["checks"] if check["name"] == name]
    return found


def test_a_sound_job_passes_every_row_and_they_are_named(tmp_path: Path) -> None:
    write_job(tmp_path, emulator={"expect": [MET]})
    done = cli("emulate", "sums", "--json", cwd=tmp_path)
    assert done.returncode == 0
    result = as_json(done)
    assert verdicts(result) == {
        "run": "passed",
        "template": "passed",
        "columns": "passed",
        "rewards import": "passed",
        "right: no call errors": "passed",
        "right: not constant": "passed",
        "short: no call errors": "passed",
        "short: not constant": "passed",
        "spread within groups": "passed",
        "as asked": "skipped",
        "right: the same twice": "passed",
        "short: the same twice": "passed",
        "resume comes to the same": "passed",
        "rewards/right/mean": "passed",
    }
    assert row(result, "rewards/right/mean")["asked"] == "last 5 at least 0.5"
    assert row(result, "resume comes to the same")["found"] == "4 steps, stopped after 2"
    assert (result["passed"], result["emulated"], result["exit_code"]) == (True, True, 0)


def test_no_checks_leaves_out_the_second_try_and_nothing_else(tmp_path: Path) -> None:
    write_job(tmp_path)
    names = verdicts(as_json(cli("emulate", "sums", "--json", "--no-checks", cwd=tmp_path)))
    assert "resume comes to the same" not in names and "right: the same twice" not in names
    assert names["right: no call errors"] == "passed"


def test_an_expectation_that_is_not_met_is_3_with_the_line_it_stands_in(tmp_path: Path) -> None:
    job = write_job(tmp_path, emulator={"expect": [MET, {"metric": "reward", "at_least": 5}]})
    done = cli("emulate", "sums", "--json", cwd=tmp_path)
    assert done.returncode == 3
    result = as_json(done)
    line = job.read_text().splitlines().index("  - metric: reward") + 1
    assert verdicts(result)["rewards/right/mean"] == "passed"
    assert row(result, "reward")["verdict"] == "failed"
    assert row(result, "reward")["place"] == f"jobs/sums/job.yaml:{line}"
    shown = cli("emulate", "sums", cwd=tmp_path).stdout
    assert "✗ reward  at least 5.0" in shown and f"jobs/sums/job.yaml:{line}" in shown


def test_a_metric_that_was_never_recorded_is_an_error_not_a_pass(tmp_path: Path) -> None:
    write_job(tmp_path, emulator={"expect": [{"metric": "rewards/right/median", "at_most": 5}]})
    done = cli("emulate", "sums", "--json", cwd=tmp_path)
    assert done.returncode == 3
    found = row(as_json(done), "rewards/right/median")
    assert found["verdict"] == "error"
    assert "was never recorded; recorded are:" in found["found"] and "rewards/right/mean" in found["found"]


@pytest.mark.parametrize(
    ("rewards", "name", "words"),
    [
        (MOODY, "right: the same twice", "got other values"),
        (FAILING, "short: no call errors", "exception, ValueError: bad (rewards.py:8)"),
    ],
)
def test_a_reward_that_breaks_its_contract_is_1(tmp_path: Path, rewards: str, name: str, words: str) -> None:
    write_job(tmp_path, rewards=rewards, emulator={"expect": []})
    done = cli("emulate", "sums", "--json", cwd=tmp_path)
    result = as_json(done)
    assert done.returncode == 1
    assert [check["name"] for check in result["checks"] if check["verdict"] == "failed"] == [name]
    assert words in row(result, name)["found"]
    assert row(result, name)["place"].startswith("jobs/sums/job.yaml:")


def test_errors_that_the_job_accepts_as_zero_are_a_warning(tmp_path: Path) -> None:
    job = write_job(tmp_path, rewards=FAILING)
    job.write_text(job.read_text().replace("fn: rewards.py:short", "fn: rewards.py:short\n    on_error: zero"))
    done = cli("emulate", "sums", "--json", cwd=tmp_path)
    assert (done.returncode, verdicts(as_json(done))["short: no call errors"]) == (0, "warned")


def test_a_constant_reward_warns_and_fails_under_strict(tmp_path: Path) -> None:
    write_job(tmp_path, rewards=CONSTANT)
    lenient = cli("emulate", "sums", cwd=tmp_path)
    assert lenient.returncode == 0 and "! short: not constant" in lenient.stdout
    strict = cli("emulate", "sums", "--strict", "--json", cwd=tmp_path)
    assert (strict.returncode, row(as_json(strict), "short: not constant")["found"]) == (
        1, "always 0.5: it teaches nothing",
    )  # fmt: skip


def test_strict_fails_what_the_emulator_caps_and_not_what_does_not_apply(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    assert cli("emulate", "sums", "--strict", cwd=tmp_path).returncode == 0
    emulator, rest = job.read_text().replace("  steps: 20\n", "  steps: 60\n", 1).split("emulator:\n")
    job.write_text(f"{emulator}emulator:\n" + rest.replace("  steps: 20\n", ""))
    capped = cli("emulate", "sums", "--json", cwd=tmp_path)
    assert (capped.returncode, verdicts(as_json(capped))["as asked"]) == (0, "skipped")
    strict = as_json(cli("emulate", "sums", "--json", "--strict", cwd=tmp_path))
    assert (strict["exit_code"], [check["asked"] for check in strict["checks"] if check["verdict"] == "failed"]) == (
        1, ["grpo.steps: 60"],
    )  # fmt: skip


def test_rewards_that_cannot_be_imported_are_1(tmp_path: Path) -> None:
    write_job(tmp_path, rewards="X = 1 / 0\n" + REWARDS)
    done = cli("emulate", "sums", "--json", cwd=tmp_path)
    result = as_json(done)
    assert done.returncode == 1
    assert row(result, "rewards import")["verdict"] == "failed"
    assert "ZeroDivisionError" in row(result, "rewards import")["found"]


def test_each_seed_is_a_run_and_the_median_is_judged(tmp_path: Path) -> None:
    write_job(tmp_path, emulator={"expect": [MET]})
    done = cli("emulate", "sums", "--seeds", "0,1,2", "--json", cwd=tmp_path)
    result = as_json(done)
    assert done.returncode == 0
    assert [(run["seed"], run["run"], run["state"]) for run in result["runs"]] == [
        (0, "sums-1", "succeeded"), (1, "sums-2", "succeeded"), (2, "sums-3", "succeeded"),
    ]  # fmt: skip
    assert len({run["digest"] for run in result["runs"]}) == 3
    assert "(median of " in row(result, "rewards/right/mean")["found"]
    assert verdicts(result)["run of seed 2"] == "passed"
    shown = cli("emulate", "sums", "--seeds", "3,4", "--no-checks", cwd=tmp_path).stdout.splitlines()
    [head] = [number for number, line in enumerate(shown) if line.split() == ["seed", "3", "seed", "4", "median"]]
    name, first, second, middle = shown[head + 1].split()
    assert name == "eval/reward" and float(middle) == pytest.approx((float(first) + float(second)) / 2, abs=1e-3)


def test_a_folder_of_jobs_is_taken_side_by_side_and_counted(tmp_path: Path) -> None:
    for number in range(3):
        write_job(tmp_path, name=f"good{number}")
    write_job(tmp_path, name="weak", emulator={"expect": [{"metric": "reward", "at_least": 5}]})
    (tmp_path / "jobs/bad").mkdir()
    (tmp_path / "jobs/bad/job.yaml").write_text("model: 3")
    done = cli("emulate", "jobs", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "3 passed, 2 failed"
    assert done.stdout.count("EMULATED") == 5
    assert "jobs/bad/job.yaml" in done.stderr
    listed = as_json(cli("emulate", "jobs/weak", "jobs/good0", "jobs/bad", "--json", cwd=tmp_path))
    assert [(run["job"].rpartition("/")[0] or run["job"], run["exit_code"]) for run in listed["runs"]] == [
        ("weak", 3), ("good0", 0), ("jobs/bad", 2),
    ]  # fmt: skip


def test_a_used_up_time_budget_is_4_and_keeps_what_there_is(tmp_path: Path) -> None:
    write_job(tmp_path, name="endless", grpo={"steps": 100000}, evaluation={"every": 100000})
    write_job(tmp_path, name="endless2", grpo={"steps": 100000}, evaluation={"every": 100000})
    write_job(tmp_path, name="never")
    began = time.monotonic()
    done = cli(
        "emulate", "jobs", "--time-budget", "3s", "--json", "--artifacts", "out", "--set", "emulator.steps=100000",
        cwd=tmp_path,
    )  # fmt: skip
    assert time.monotonic() - began < 60
    assert done.returncode == 4
    runs = as_json(done)["runs"]
    assert {run["exit_code"] for run in runs} == {4}
    assert "the time budget of 3 s is used up" in [check["found"] for check in runs[0]["checks"]]
    assert (runs[0]["state"], runs[0]["reason"]) == ("held", "stopped")
    assert (tmp_path / "out/endless-1/completions.jsonl").stat().st_size > 0


@pytest.mark.parametrize("argument", ["--seeds=", "--seeds=0,x", "--time-budget=90", "--time-budget=0s"])
def test_what_is_no_seed_and_no_duration_is_a_usage_error(tmp_path: Path, argument: str) -> None:
    write_job(tmp_path)
    done = cli("emulate", "sums", argument, cwd=tmp_path)
    assert done.returncode == 2
    assert not (tmp_path / ".runner").exists()


def several(tmp_path: Path) -> subprocess.Popen[str]:
    """Three jobs without end; as many as there are cores for have made a step."""
    for number in range(3):
        write_job(tmp_path, name=f"job{number}", grpo={"steps": 100000}, evaluation={"every": 100000})
    process = subprocess.Popen(
        command("emulate", "jobs", "--json"), cwd=tmp_path, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not _has_trained(tmp_path):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    return process


def _has_trained(home: Path) -> bool:
    journals = list(home.glob(".runner/runs/*/journal/0001.jsonl"))
    return len(journals) == min(3, cores()) and all(b"metrics_reported" in path.read_bytes() for path in journals)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_all_with_a_checkpoint_and_starts_nothing_more(tmp_path: Path, number: int) -> None:
    process = several(tmp_path)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    runs = as_json(subprocess.CompletedProcess([], 0, out))["runs"]
    assert len(runs) == 3 and {run["exit_code"] for run in runs} == {128 + number}
    started = [run for run in runs if run["state"] == "held"]
    assert started and all(run["checkpoint"]["step"] == run["step"] > 0 for run in started)
    assert all(run["state"] in ("held", "not started") for run in runs)
    assert "Traceback" not in err


@pytest.mark.lm
def test_a_language_model_job_is_checked_too(tmp_path: Path) -> None:
    small = [
        "emulator.steps=4", "emulator.prompts_per_step=2", "evaluation.limit=4", "emulator.max_completion_length=16",
        "emulator.expect=[]",
    ]  # fmt: skip
    overrides = [part for item in small for part in ("--set", item)]
    job = Path("jobs/examples/countdown").resolve()
    done = cli("emulate", job, "--home", tmp_path, "--json", *overrides, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    found = row(as_json(done), "resume comes to the same")
    assert (found["verdict"], found["found"]) == ("passed", "4 steps, stopped after 2")
