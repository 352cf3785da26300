"""Rewards that can't work: told before anything trains, with the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.kit import JOB, REWARDS, cli, make_job

BAD = {
    "arity": (JOB, REWARDS.replace("right(prompt, completion, example)", "right(prompt, completion)"),
              "rewards.py:1:1: error[reward-signature]: right takes 2 parameters (prompt, completion)"),
    "missing": (JOB.replace("py:right", "py:rigth"), REWARDS,
                "rewards.py defines no rigth\n        did you mean `right`?"),
    "import": (JOB, "import numpyy\n" + REWARDS, "rewards.py:1: ModuleNotFoundError: No module named 'numpyy'"),
    "exit": (JOB, "raise SystemExit(3)\n" + REWARDS, "rewards.py:1: SystemExit: 3"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_rewards_that_can_not_work_are_told_with_their_line_before_any_training(tmp_path: Path, case: str) -> None:
    job, rewards, message = BAD[case]
    make_job(tmp_path, job=job, rewards=rewards)
    done = cli("emulate", "colours", "--no-checks", cwd=tmp_path)
    assert (done.returncode, message in done.stdout + done.stderr) == (1 if "step 0/6" in done.stdout else 2, True)
    assert "reward 0" not in done.stderr
