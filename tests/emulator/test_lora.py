"""LoRA in the emulator against PEFT: same folder, same numbers, same way of learning."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("transformers")

import peft
import torch
import transformers

from emulator.lm.model import load_model
from runner.spec.model import Lora
from tests.emulator.lm_builders import ADVANTAGES, WEIGHTS, draw, plain_logits, policy

pytestmark = [pytest.mark.lm, pytest.mark.trl]
IDS = list(range(5, 45))


def theirs(folder: Path) -> torch.Tensor:
    base = transformers.AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32)
    with torch.no_grad():
        return peft.PeftModel.from_pretrained(base, folder)(torch.tensor([IDS])).logits[0]


@pytest.mark.parametrize(
    "lora", [Lora(rank=4, alpha=8.0), Lora(rank=3, alpha=7.5, target_modules=["q_proj", "down_proj"])]
)
def test_a_trained_adapter_opens_in_peft_and_gives_the_same_logits(tmp_path: Path, lora: Lora) -> None:
    it = policy(lora=lora, learning_rate=1e-2, lr_scheduler_type="constant")
    start = plain_logits(it.model, IDS).detach()
    torch.testing.assert_close(start, plain_logits(load_model(WEIGHTS), IDS))
    for step in (1, 2, 3):
        it.update(draw(it, seed=step), ADVANTAGES, step)
    it.save(tmp_path)
    mine = plain_logits(it.model, IDS).detach()
    assert float((mine - start).abs().max()) > 0.05
    torch.testing.assert_close(mine, theirs(tmp_path), atol=5e-5, rtol=1e-5)
    assert not (tmp_path / "model.safetensors").exists()


def test_only_the_adapter_is_trained(tmp_path: Path) -> None:
    it = policy(lora=Lora(rank=4, target_modules=["q_proj"]), learning_rate=1e-2)
    before = {name: tensor.clone() for name, tensor in it.model.state_dict().items()}
    it.update(draw(it), ADVANTAGES, 1)
    changed = {name for name, tensor in it.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"blocks.{layer}.qkv" for layer in range(it.model.config.layers)}
    kept = it.model.state_dict()["blocks.0.qkv"]
    rows = it.model.config.heads * it.model.config.head_dim
    assert torch.equal(kept[rows:], before["blocks.0.qkv"][rows:]), "keys and values have no adapter"


def test_a_saved_adapter_goes_on_bitwise(tmp_path: Path) -> None:
    straight, resumed = (policy(lora=Lora(rank=4), beta=0.1) for _ in range(2))
    for step in (1, 2):
        straight.update(draw(straight, seed=step), ADVANTAGES, step)
    straight.save(tmp_path / "at2")
    resumed.load(tmp_path / "at2")
    for it, name in ((straight, "straight"), (resumed, "resumed")):
        it.update(draw(it, seed=3), ADVANTAGES, 3)
        it.save(tmp_path / name)
    for name in ("adapter_model.safetensors", "optimizer.safetensors"):
        assert (tmp_path / "straight" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()


def test_the_seed_decides_how_an_adapter_begins() -> None:
    first, second = policy(lora=Lora(rank=4)), policy(lora=Lora(rank=4))
    names = first._trained()
    assert all(torch.equal(tensor, second._trained()[name]) for name, tensor in names.items())
    up = [tensor for name, tensor in names.items() if "lora_A" in name]
    assert all(float(tensor.detach().abs().max()) <= tensor.shape[1] ** -0.5 for tensor in up)
    assert all(float(tensor.detach().abs().max()) == 0 for name, tensor in names.items() if "lora_B" in name)
