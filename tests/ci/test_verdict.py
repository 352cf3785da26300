"""One verdict from all rows: what is judged how, which exit code it is, and what reports make of hostile text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import pytest

from runner import api
from runner.ci import artifacts, github
from runner.ci.checks import Check, Result, Trial, Verdict, gravest, strictly
from runner.ci.html import page
from runner.ci.junit import junit
from runner.ci.learning import learning
from runner.ci.trial import read_trial
from runner.spec.errors import Finding
from runner.spec.model import Expect, JobSpec
from tests.small_job import REWARDS, write_job

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\x1b]0;x\x07\u202e &amp; ::error::owned"
HOSTILE_REWARDS = REWARDS.replace('"shorter is better"', '"</td><script>"')


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """Of a run whose completions and prompts are hostile."""
    home = tmp_path_factory.mktemp("home")
    job = write_job(home, rewards=HOSTILE_REWARDS, grpo={"steps": 3})
    recorded = job.parent / "completions.jsonl"
    encoded = HOSTILE.replace("\x1b", "\\u001b").replace("\x07", "\\u0007").replace('"', '\\"')
    recorded.write_text(recorded.read_text(encoding="utf-8").replace("no idea", encoded), encoding="utf-8")
    return read_trial(api.emulate(job, home=home), 0)


def check(verdict: Verdict, **fields: Any) -> Check:
    return Check(**{"name": "a row", "verdict": verdict, "found": "what was found", **fields})


def result(checks: Sequence[Check], *trials: Trial) -> Result:
    return Result(job="sums", path=Path("jobs/sums/job.yaml"), checks=checks, trials=trials, seconds=1.5)


def with_values(trial: Trial, *values: float) -> Trial:
    return replace(trial, metrics={"reward": list(enumerate(values, 1))})


def judged(expect: Expect, *trials: Trial) -> Check:
    job = JobSpec.model_validate(
        {
            "model": "none/none",
            "dataset": {"path": "data.jsonl"},
            "rewards": {"right": {"fn": "rewards.py:right"}},
            "emulator": {"policy": "replay", "completions": "x.jsonl"},
        }
    )
    job = job.model_copy(update={"emulator": job.emulator.model_copy(update={"expect": [expect]})})
    [row] = learning(job, trials)
    return row


def test_the_exit_code_is_of_the_failed_rows_the_gravest_first() -> None:
    assert gravest([]) == gravest([0, 0]) == 0
    assert gravest([3, 4, 1]) == 1
    assert gravest([3, 4]) == 4
    assert gravest([1, 2, 5]) == 2
    assert gravest([1, 143, 130]) == 130
    passing = [check(Verdict.PASSED), check(Verdict.WARNED), check(Verdict.SKIPPED)]
    assert (result(passing).passed, result(passing).code) == (True, 0)
    failing = [*passing, check(Verdict.ERROR, code=3)]
    assert (result(failing).passed, result(failing).code) == (False, 3)


def test_strictly_a_warning_is_a_failure_and_nothing_else_changes() -> None:
    rows = [check(verdict) for verdict in Verdict]
    assert [row.verdict for row in strictly(rows)] == ["passed", "failed", "failed", "error", "skipped"]


def test_an_expectation_is_judged_over_its_window(trial: Trial) -> None:
    row = judged(Expect(metric="reward", last=2, at_least=0.5, rises_by=0.3), with_values(trial, 0.1, 0.3, 0.4, 0.6))
    assert (row.verdict, row.found, row.asked) == (
        "passed", "0.5, rose by 0.3", "last 2 at least 0.5, rises by 0.3 over 2 steps' means",
    )  # fmt: skip
    assert judged(Expect(metric="reward", at_most=0.5), with_values(trial, 0.1, 0.6)).verdict == "failed"
    missing = judged(Expect(metric="kl", at_most=0.5), with_values(trial, 0.1))
    assert (missing.verdict, missing.code) == ("error", 3)
    assert missing.found == "kl was never recorded; recorded are: reward"


def test_over_several_seeds_the_median_is_judged_so_one_unlucky_seed_does_not_fail(trial: Trial) -> None:
    seeds = [with_values(trial, 0.0, value) for value in (0.9, 0.1, 0.8)]
    row = judged(Expect(metric="reward", at_least=0.7), *seeds)
    assert (row.verdict, row.found) == ("passed", "0.8 (median of 0.9, 0.1, 0.8)")
    assert judged(Expect(metric="reward", at_least=0.85), *seeds).verdict == "failed"
    never = replace(trial, metrics={})
    assert judged(Expect(metric="reward", at_least=0.0), seeds[0], never, seeds[2]).verdict == "error"


def test_junit_has_a_suite_for_a_job_and_a_case_for_a_row(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
    place = Finding(code="check", message="", file="jobs/sums/job.yaml", line=31, column=7)
    rows = [
        check(Verdict.PASSED),
        check(Verdict.FAILED, asked="at least 0.6", tier="learning", place=place, found="0.3 \x00\x1b]]> <b>"),
        check(Verdict.ERROR),
        check(Verdict.SKIPPED),
        check(Verdict.WARNED),
    ]
    root = xml.fromstring(junit([result(rows, trial)]))
    [suite] = root
    assert {name: suite.get(name) for name in ("name", "tests", "failures", "errors", "skipped", "time")} == {
        "name": "sums", "tests": "5", "failures": "1", "errors": "1", "skipped": "1", "time": "1.500",
    }  # fmt: skip
    properties = {item.get("name"): item.get("value") for item in suite.iter("property")}
    assert (properties["emulated"], properties["seed"], properties["run"]) == ("true", "0", "sums-1")
    assert properties["digest"] == trial.run.digest
    failed = suite.findall("testcase")[1]
    assert (failed.get("file"), failed.get("line"), failed.get("classname")) == (
        "jobs/sums/job.yaml", "31", "sums.learning",
    )  # fmt: skip
    failure = failed.find("failure")
    assert failure is not None and failure.get("message") == "0.3 \ufffd\ufffd]]> <b>"
    assert "asked: at least 0.6" in str(failure.text) and "jobs/sums/job.yaml:31:7" in str(failure.text)


def test_the_html_page_shows_hostile_completions_as_text_and_runs_nothing(trial: Trial) -> None:
    text = page([result([check(Verdict.FAILED, found=HOSTILE, name=HOSTILE)], trial)])
    assert "EMULATED" in text and "best completions" in text and "<polyline" in text
    assert "</span>&lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert not re.search(r"<script|<img|onerror=[^&]*>|javascript:|href=(?!.#job)|src=(?!x)", text)
    assert "\x1b" not in text and "\u202e" not in text and "\\u202e" in text
    policy = "default-src 'none'"
    assert re.search(rf'<meta http-equiv="Content-Security-Policy" content="{policy}', text)
    assert text.index("Content-Security-Policy") < text.index("<style")
    assert set(re.findall(r"<([a-z0-9]+)", text)) <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "span", "section", "p", "a", "code",
        "table", "tr", "th", "td", "pre", "details", "summary", "svg", "g", "path", "text", "polyline", "circle",
        "figure", "figcaption",
    }  # fmt: skip


def test_an_annotation_is_one_line_whatever_is_in_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    place = Finding(code="check", message="", file=str(tmp_path / "jobs/a,b:c/job.yaml"), line=4, column=3)
    rows = [
        check(Verdict.FAILED, found="50% of\n::error::owned", asked="at least 1", place=place),
        check(Verdict.WARNED, place=Finding(code="x", message="", file="--set", line=1, column=1)),
        check(Verdict.PASSED),
    ]
    assert list(github.commands([result(rows)])) == [
        "::error file=jobs/a%2Cb%3Ac/job.yaml,line=4,col=3,title=EMULATED sums%3A a row::"
        "50%25 of%0A::error::owned (asked: at least 1)",
        f"::warning file={Path.cwd()}/jobs/sums/job.yaml,title=EMULATED sums%3A a row::what was found",
    ]


def test_the_step_summary_is_a_table_that_text_can_not_leave() -> None:
    rows = [check(Verdict.FAILED, found="a | b\n<img src=x> @someone `c`"), check(Verdict.PASSED, name="folded")]
    text = github.summary([result(rows)])
    assert "| ❌ | a row |  | a \\| b \\<img src=x\\> \\@someone \\`c\\` |  |" in text
    assert "<details><summary>1 more checks</summary>" in text
    assert text.rstrip().endswith("**0 passed, 1 failed** (EMULATED)")


def test_artifacts_hold_the_spec_the_journal_every_completion_and_the_report(trial: Trial, tmp_path: Path) -> None:
    for _ in range(2):  # again into the same folder
        artifacts.write_artifacts([result([check(Verdict.PASSED)], trial)], tmp_path / "out")
    out = tmp_path / "out"
    for name in ("spec.json", "journal/0001.jsonl", "completions.jsonl", "metrics.jsonl", "source/job.yaml"):
        assert (out / "sums-1" / name).stat().st_size > 0, name
    assert (out / "sums-1/completions.jsonl").read_text().count("\n") == len(trial.handle.completions())
    assert "EMULATED" in (out / "report.html").read_text(encoding="utf-8")
    assert '"emulated": true' in (out / "summary.json").read_text()
