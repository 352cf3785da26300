"""What the README shows must work as shown."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from runner.spec.load import load
from runner.spec.model import JobSpec

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.lm
def test_the_ten_lines_of_python_run_as_they_stand(tmp_path: Path) -> None:
    [code] = [block for block in blocks("python") if "import runner" in block]
    (tmp_path / "ten_lines.py").write_text(code)
    done = subprocess.run([sys.executable, "ten_lines.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "succeeded" in done.stdout


def test_the_short_job_is_a_sound_job(tmp_path: Path) -> None:
    [short] = [block for block in blocks("yaml") if block.startswith("model:")]
    [emulator] = [block for block in blocks("yaml") if block.startswith("emulator:")]
    (tmp_path / "job.yaml").write_text(short + emulator)
    job = load(tmp_path / "job.yaml").job
    assert (job.grpo.steps, job.emulator.steps, job.emulator.faults[0].kind) == (200, 60, "crash")


def test_the_sections_about_rewards_are_sound() -> None:
    [rewards] = [block for block in blocks("yaml") if block.startswith("rewards:")]
    [around] = [block for block in blocks("yaml") if block.startswith("packages:")]
    job = JobSpec.model_validate(yaml.safe_load(f"model: a/b\ndataset: {{path: data.jsonl}}\n{rewards}{around}"))
    assert (job.rewards["groupwise"].batch, job.secrets["JUDGE_KEY"].env) == ("group", "OPENAI_API_KEY")


def test_every_room_of_the_house_is_in_the_annotated_tree() -> None:
    rooms = {path.name for path in (ROOT / "runner").iterdir() if (path / "__init__.py").exists()}
    tree = README.split("## The house")[1]
    assert [room for room in sorted(rooms) if f"  {room}/" not in tree] == []


def test_every_test_that_the_readme_names_as_a_proof_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", README))
    defined = set(
        re.findall(r"^def (test_\w+)", "".join(p.read_text() for p in ROOT.glob("tests/**/*.py")), re.MULTILINE)
    )
    assert len(named) > 50
    assert named - defined == set()
