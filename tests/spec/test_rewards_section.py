"""What the `rewards:` section refuses, each at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.spec.errors import Finding, JobError
from runner.spec.load import load

JOB = """\
model: a/b
dataset: {path: d.jsonl}
rewards:
  format: {fn: "r.py:f"}
  answer: {fn: "r.py:g"%s}
"""


def finding(tmp_path: Path, more: str, job: str = JOB) -> Finding:
    (tmp_path / "job.yaml").write_text(job % more)
    with pytest.raises(JobError) as refused:
        load(tmp_path / "job.yaml")
    (found,) = refused.value.findings
    return found


def test_a_condition_names_rewards_of_the_job(tmp_path: Path) -> None:
    found = finding(tmp_path, ', only_if: "fromat > 0"')
    assert (found.line, found.code, found.field) == (5, "semantic", "rewards.answer.only_if")
    assert found.message == "there is no reward named `fromat`" and found.hint == "did you mean `format`?"


def test_a_condition_that_is_none_is_refused_with_the_form(tmp_path: Path) -> None:
    found = finding(tmp_path, ', only_if: "format"')
    assert (found.line, found.field) == (5, "rewards.answer.only_if")
    assert "`format > 0`" in found.hint


def test_conditions_may_not_go_in_a_circle(tmp_path: Path) -> None:
    job = JOB.replace('fn: "r.py:f"', 'fn: "r.py:f", only_if: "answer > 0"')
    found = finding(tmp_path, ', only_if: "format > 0"', job)
    assert (found.line, found.message) == (4, "waits for itself: format → answer → format")


def test_bounds_come_in_order(tmp_path: Path) -> None:
    found = finding(tmp_path, ", clip: [1, 0]")
    assert (found.line, found.field, found.message) == (5, "rewards.answer.clip", "[1, 0] is no range")


@pytest.mark.parametrize(
    ("more", "field"),
    [("isolation: call", "isolation"), ("cache: true", "cache"), ("retries: {max: 2}", "retries")],
)
def test_what_is_said_of_one_call_is_refused_for_a_whole_group(tmp_path: Path, more: str, field: str) -> None:
    found = finding(tmp_path, f", style: trl, batch: group, {more}")
    assert (found.line, found.field) == (5, f"rewards.answer.{field}")
    assert (found.message, found.hint) == ("is for calls of one completion", "remove `batch: group`")
