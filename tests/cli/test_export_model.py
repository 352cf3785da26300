"""`runner export --model`: a folder that stands alone, looked at before it is called good."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.kit import cli, make_job

pytest.importorskip("torch")
pytest.importorskip("peft")
pytestmark = pytest.mark.lm

JOB = """\
model: any/model
dataset: {path: data.jsonl, prompt: "Say {word}.", holdout: 0.25}
rewards:
  long: {fn: "rewards.py:long"}
lora: {rank: 2}
emulator: {steps: 2, prompts_per_step: 2, num_generations: 4, max_completion_length: 8}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    make_job(home, job=JOB)
    done = cli("emulate", "colours", "--no-checks", cwd=home)
    assert done.returncode == 0, done.stderr
    return home


def test_an_exported_adapter_has_its_card_and_all_that_made_it(home: Path, tmp_path: Path) -> None:
    done = cli("export", "colours", "--model", "tuned", "--home", home, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "verified: loads, has the base model's weight names, differs from it" in done.stderr
    folder = tmp_path / "tuned"
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "generation_config.json", "provenance",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    card = (folder / "README.md").read_text()
    assert 'base_model: "the emulator\'s own model"' in card
    assert "| long | 1 | " in card
    assert "--enable-lora --max-lora-rank 8 --lora-modules colours=" in card
    origin = json.loads((folder / "provenance/provenance.json").read_text())
    assert (origin["run"], origin["step"], len(origin["data"]["sha256"])) == ("colours-1", 2, 64)
    [version] = origin["reward_versions"]
    [source] = (folder / "provenance/rewards" / version["folder"]).rglob("rewards.py")
    assert "def long" in source.read_text()
    assert json.loads((folder / "provenance/job.json").read_text())["lora"]["rank"] == 2


def test_an_adapter_that_was_never_updated_is_no_result(home: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "home"
    shutil.copytree(home, broken)
    path = broken / ".runner/runs/colours-1/checkpoints/step-000002/adapter_model.safetensors"
    size = path.stat().st_size
    save_file({name: tensor * 0 for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    assert path.stat().st_size == size
    done = cli("export", "colours", "--model", "tuned", "--home", broken, cwd=tmp_path)
    assert done.returncode == 1
    assert "the adapter changes nothing: it was never updated" in done.stderr
