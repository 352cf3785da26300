"""`runner init`: every template is a sound job that emulates; nothing is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.cli.kit import as_json, cli

TEMPLATES = ["countdown", "own-data", "predibase"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_is_sound_on_both_backends(template: str, tmp_path: Path) -> None:
    done = cli("init", "--template", template, cwd=tmp_path)
    assert done.returncode == 0
    assert f"jobs/{template}/job.yaml" in done.stdout.splitlines()
    checked = cli("validate", cwd=tmp_path)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert cli("plan", template, "--backend", "emulator", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("template", ["own-data", "predibase", pytest.param("countdown", marks=pytest.mark.lm)])
def test_a_template_emulates_and_meets_what_it_expects(template: str, tmp_path: Path) -> None:
    cli("init", "--template", template, cwd=tmp_path)
    small = ["--set", "emulator.steps=2", "--set", "emulator.expect=[]"] if template == "countdown" else []
    if template == "countdown":
        small += ["--set", "evaluation.limit=4", "--set", "emulator.prompts_per_step=2"]
    done = cli("emulate", template, "--json", *small, cwd=tmp_path)
    assert (done.returncode, as_json(done)["state"]) == (0, "succeeded"), done.stderr


def test_the_editor_finds_the_schema_and_ci_the_jobs(tmp_path: Path) -> None:
    cli("init", "--template", "own-data", cwd=tmp_path)
    first = (tmp_path / "jobs/own-data/job.yaml").read_text().splitlines()[0]
    schema = first.partition("$schema=")[2]
    assert (tmp_path / "jobs/own-data" / schema).resolve() == (tmp_path / "schemas/job.schema.json").resolve()
    workflow = yaml.safe_load((tmp_path / ".github/workflows/runner.yml").read_text())
    steps = [step.get("run", "") for step in workflow["jobs"]["jobs"]["steps"]]
    assert "runner validate" in steps
    [emulate] = [step for step in steps if step.startswith("runner emulate jobs ")]
    assert "--github" in emulate and "--junit out/junit.xml" in emulate
    done = cli(*emulate.split()[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "out/junit.xml").exists() and (tmp_path / "out/runs/report.html").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "jobs/own-data").mkdir(parents=True)
    (tmp_path / "jobs/own-data/rewards.py").write_text("mine")
    done = cli("init", "--template", "own-data", cwd=tmp_path)
    assert done.returncode == 2
    assert "jobs/own-data/rewards.py is there already" in done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["rewards.py"]


def test_a_second_template_keeps_what_is_shared(tmp_path: Path) -> None:
    cli("init", tmp_path / "new", "--template", "own-data", cwd=tmp_path)
    done = cli("init", tmp_path / "new", "--template", "predibase", cwd=tmp_path)
    assert done.returncode == 0
    assert "kept as it is" in done.stderr
