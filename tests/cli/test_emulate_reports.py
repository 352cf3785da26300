"""What `runner emulate` leaves for CI systems: JUnit, annotations, a step summary, a page, a folder of artifacts."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree as xml

from tests.cli.kit import cli, command, environment
from tests.small_job import REWARDS, write_job

UNMET = {"expect": [{"metric": "rewards/right/mean", "at_least": 0.1}, {"metric": "reward", "at_least": 5}]}
LOUD = REWARDS.replace("    print(", '    raise ValueError("\\n::error::owned\\n##[error]owned")\n    print(')


def on_github(*args: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    env = {**environment(), "GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(cwd), **more}
    return subprocess.run(command(*args), cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def line_of(job: Path, text: str) -> int:
    return [line.strip() for line in job.read_text().splitlines()].index(text) + 1


def commands(output: str) -> list[str]:
    """The workflow commands that GitHub would take from this log."""
    taken: list[str] = []
    token = None
    for line in map(str.lstrip, output.splitlines()):
        if token is not None:
            token = None if line == f"::{token}::" else token
        elif line.startswith("::stop-commands::"):
            token = line.removeprefix("::stop-commands::")
        elif line.startswith("::") or "##[" in line:
            taken.append(line)
    assert token is None, "commands are on again at the end"
    return taken


def test_on_github_the_failed_expectation_is_annotated_at_its_line_and_summed_up(tmp_path: Path) -> None:
    job = write_job(tmp_path, emulator=UNMET)
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    done = on_github("emulate", "sums", cwd=tmp_path, GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 3
    line = line_of(job, "- metric: reward")
    [annotation] = commands(done.stdout)
    assert annotation.startswith(f"::error file=jobs/sums/job.yaml,line={line},col=5,title=EMULATED sums%3A reward::")
    assert annotation.endswith("(asked: at least 5.0)")
    text = summary.read_text()
    assert text.startswith("before\n### ❌ sums (EMULATED)") and "rewards/right/mean" in text
    assert "**0 passed, 1 failed** (EMULATED)" in text


def test_a_failing_reward_is_annotated_at_its_line_and_its_words_are_no_commands(tmp_path: Path) -> None:
    job = write_job(tmp_path, rewards=LOUD)
    done = on_github("emulate", "sums", "--no-checks", cwd=tmp_path)
    assert done.returncode == 1
    taken = commands(done.stdout)
    assert any(f"line={line_of(job, 'short:')},col=3,title=EMULATED sums%3A short%3A no call" in one for one in taken)
    assert all(one.startswith(("::error file=", "::error title=", "::warning ")) for one in taken)
    assert commands(done.stdout.replace("::stop-commands::", "")) != taken, "there was something to keep out"


def test_off_github_nothing_is_a_command_unless_asked_for(tmp_path: Path) -> None:
    write_job(tmp_path, emulator=UNMET)
    assert "::" not in cli("emulate", "sums", "--no-checks", cwd=tmp_path).stdout
    asked = cli("emulate", "sums", "--no-checks", "--github", "--json", cwd=tmp_path)
    assert json.loads(asked.stdout)["exit_code"] == 3
    assert len(commands(asked.stderr)) == 1
    assert "::error" not in on_github("emulate", "sums", "--no-checks", "--no-github", cwd=tmp_path).stdout


def test_every_report_is_written_also_for_a_job_that_is_invalid(tmp_path: Path) -> None:
    write_job(tmp_path, name="good")
    write_job(tmp_path, name="weak", emulator=UNMET)
    (tmp_path / "jobs/bad").mkdir()
    (tmp_path / "jobs/bad/job.yaml").write_text("model: a/b\ndataset: {path: x.jsonl}\nrewards: {}\ngrop: {}\n")
    reports = ["--junit", "out/junit.xml", "--html", "out/report.html", "--artifacts", "out/kept"]
    done = cli("emulate", "jobs", *reports, cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "1 passed, 2 failed")
    root = xml.parse(tmp_path / "out/junit.xml").getroot()
    assert [suite.get("name") for suite in root] == ["jobs/bad/job.yaml", "good", "weak"]
    assert [(suite.get("failures"), int(suite.get("errors") or 0) > 0) for suite in root] == [
        ("0", True), ("0", False), ("1", False),
    ]  # fmt: skip
    errors = {(case.get("file"), case.get("line")) for case in root[0].findall("testcase")}
    assert ("jobs/bad/job.yaml", "4") in errors
    assert root.get("name") == "runner emulate (EMULATED)"
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert page.count("<section ") == 3 and "EMULATED" in page and not re.search("<script|http:|https:", page)
    kept = sorted(path.name for path in (tmp_path / "out/kept").iterdir())
    assert kept == ["good-1", "report.html", "summary.json", "weak-1"]
    summary = json.loads((tmp_path / "out/kept/summary.json").read_text())
    assert [job["passed"] for job in summary] == [False, True, False]


def test_detached_there_is_nothing_to_report_and_it_says_so(tmp_path: Path) -> None:
    write_job(tmp_path)
    done = cli("emulate", "sums", "-d", "--junit", "x.xml", cwd=tmp_path)
    assert done.returncode == 2 and "nothing to judge" in done.stderr
    assert not os.path.exists(tmp_path / ".runner")
