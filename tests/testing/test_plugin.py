"""The pytest plugin in a test suite that is not ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.cli.kit import ROOT, make_job

SUITE = """
import sys

def test_of_something_else():
    loaded = [name for name in sys.modules if name.split(".")[0] in ("runner", "pydantic", "yaml", "msgspec")]
    assert sorted(loaded) == ["runner", "runner.pytest_plugin"]
"""
USING = """
CASES = [("It is red.", 1.0), ("It is blue.", 0.0)]

def test_a_call(reward):
    right = reward("rewards.py:right")
    assert right("red", word="red") == 1.0

def test_everything(reward):
    allow = ["gold spam", "all answers", "repetition"]
    reward.check("rewards.py:right", CASES, example={"word": "red"}, gold="red", allow=allow)

def test_that_fails(reward):
    reward.check("rewards.py:right", CASES, example={"word": "red"}, gold="red")
"""


def pytest_in(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """pytest with the plugin loaded as its entry point would."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    arguments = ["-p", "runner.pytest_plugin", "-p", "no:cacheprovider", "--rootdir", str(folder), *args]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *arguments, str(folder)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_suite_that_does_not_use_it_pays_for_two_small_modules(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(SUITE)
    done = pytest_in(tmp_path)
    assert done.returncode == 0, done.stdout


def test_what_it_costs_to_load_is_next_to_nothing_beside_pytest() -> None:
    timed = "began = time.perf_counter(); import runner.pytest_plugin; print(time.perf_counter() - began)"
    code = f"import pytest, time; {timed}"
    seconds = min(
        float(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout)
        for _ in range(5)
    )
    assert seconds < 0.05


def test_the_fixture_calls_and_checks_rewards_beside_the_test(tmp_path: Path) -> None:
    folder = make_job(tmp_path)
    (folder / "test_rewards.py").write_text(USING)
    done = pytest_in(folder)
    assert "1 failed, 2 passed" in done.stdout
    assert "gold spam" in done.stdout and "a policy will find that" in done.stdout


def test_jobs_are_tests_when_asked_for(tmp_path: Path) -> None:
    make_job(tmp_path)
    broken = make_job(tmp_path, "broken", rewards="import nothing_of_that_name\n")
    (broken / "rewards.py").write_text(
        "import nothing_of_that_name\ndef right(p, c, e): return 1\ndef long(p, c, e): return 1\n"
    )
    invalid = make_job(tmp_path, "invalid")
    (invalid / "job.yaml").write_text((invalid / "job.yaml").read_text().replace("grpo:", "gpro:"))
    assert "no tests ran" in pytest_in(tmp_path).stdout
    done = pytest_in(tmp_path, "--runner-jobs", "-vv")
    assert "jobs/colours/job.yaml::is valid PASSED" in done.stdout
    assert "jobs/colours/job.yaml::rewards load PASSED" in done.stdout
    assert "jobs/broken/job.yaml::rewards load FAILED" in done.stdout
    assert "No module named 'nothing_of_that_name'" in done.stdout
    assert "gpro: no such field" in done.stdout and "did you mean `grpo`?" in done.stdout
    assert "Traceback" not in done.stdout


def test_the_entry_point_is_the_plugin() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"grpo_runner": "runner.pytest_plugin"}
