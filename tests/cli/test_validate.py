"""`runner validate`: the verdict on stdout, what is wrong on stderr, exit code 2, nothing run."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from tests.cli.kit import JOB, REWARDS, ROOT, as_json, cli, environment, make_job
from tests.spec.test_broken import BREAKS


def test_a_sound_job_is_ok(tmp_path: Path) -> None:
    make_job(tmp_path)
    done = cli("validate", "jobs/colours", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok  jobs/colours/job.yaml\n", "")


def test_a_typo_is_told_with_its_place_and_the_way_out(tmp_path: Path) -> None:
    make_job(tmp_path, job=JOB.replace("num_generations", "num_generation"))
    done = cli("validate", "jobs/colours", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == "invalid  jobs/colours/job.yaml  1 error\n"
    assert "jobs/colours/job.yaml:6:39: error[unknown-field] grpo.num_generation: no such field" in done.stderr
    assert "did you mean `num_generations`?" in done.stderr


def test_errors_of_data_and_rewards_come_together(tmp_path: Path) -> None:
    folder = make_job(tmp_path, rewards=REWARDS.replace("def long(prompt, completion, example)", "def long(prompt)"))
    (folder / "data.jsonl").write_text('{"wort": "rot"}\n')
    done = cli("validate", "jobs/colours", "--json", cwd=tmp_path)
    codes = {finding["code"] for finding in as_json(done)["jobs"][0]["findings"]}
    assert done.returncode == 2
    assert "reward-signature" in codes and len(codes) > 1


def test_one_bad_job_hides_no_other_and_the_home_is_the_default(tmp_path: Path) -> None:
    make_job(tmp_path, "bad", job="model: 3")
    make_job(tmp_path, "good")
    (tmp_path / "jobs" / "torn.yaml").write_text("model: [")
    done = cli("validate", "--json", cwd=tmp_path)
    verdicts = {Path(job["path"]).relative_to(tmp_path / "jobs"): job["valid"] for job in as_json(done)["jobs"]}
    assert verdicts == {Path("bad/job.yaml"): False, Path("good/job.yaml"): True, Path("torn.yaml"): False}
    assert (done.returncode, done.stderr) == (2, "")


def test_an_override_is_checked_like_the_file(tmp_path: Path) -> None:
    make_job(tmp_path)
    done = cli("validate", "colours", "--set", "grpo.steps=many", cwd=tmp_path)
    assert done.returncode == 2
    assert "grpo.steps" in done.stderr and "--set:1" in done.stderr


def test_no_job_and_no_jobs_are_told(tmp_path: Path) -> None:
    assert "`runner init` writes one" in cli("validate", "nothing", cwd=tmp_path).stderr
    done = cli("validate", cwd=tmp_path)
    assert done.returncode == 2
    assert "holds no jobs" in done.stderr


def test_no_code_of_the_job_is_run(tmp_path: Path) -> None:
    make_job(tmp_path, rewards="open('ran', 'w')\n" + REWARDS)
    assert cli("validate", "colours", cwd=tmp_path).returncode == 0
    assert not list(tmp_path.rglob("ran"))


def test_two_hundred_broken_jobs_end_in_findings_and_never_in_a_traceback(tmp_path: Path) -> None:
    for seed in range(220):
        broken = BREAKS[seed % len(BREAKS)](random.Random(seed))
        folder = tmp_path / f"{seed:03}"
        folder.mkdir()
        (folder / "job.yaml").write_bytes(broken if isinstance(broken, bytes) else broken.encode())
    told, listed = cli("validate", tmp_path, cwd=tmp_path), cli("validate", tmp_path, "--json", cwd=tmp_path)
    for done in (told, listed):
        assert done.returncode == 2
        assert "Traceback" not in done.stderr and "defect" not in done.stderr
    jobs = as_json(listed)["jobs"]
    assert len(jobs) == 220
    assert not any(job["valid"] for job in jobs)
    assert all(job["findings"] for job in jobs)
    assert told.stdout.count("invalid  ") == 220
    assert not any(c in told.stdout + told.stderr for c in "\x00\x01\x07\x1b\x7f")


def test_it_needs_neither_the_database_nor_a_table_reader_nor_rich(tmp_path: Path) -> None:
    make_job(tmp_path)
    code = (
        "import sys\n"
        "from runner.cli.app import build\n"
        "build()(['validate', 'colours'], standalone_mode=False)\n"
        "print(*[m for m in ('sqlite_utils', 'pyarrow', 'rich', 'jsonschema', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == ""


def test_the_shipped_examples_are_sound(tmp_path: Path) -> None:
    done = cli("validate", ROOT / "jobs" / "examples", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
