"""Whether an exported model holds what a run was to make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from runner.grpo.weights import ADAPTER, problems  # noqa: E402

Q = "model.layers.0.q.weight"
A, B = "base_model.model.model.layers.0.q.lora_A.weight", "base_model.model.model.layers.0.q.lora_B.weight"


def folder(path: Path, tensors: dict[str, Any], name: str = "model.safetensors") -> Path:
    path.mkdir()
    safetensors.save_file(tensors, path / name)
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return folder(tmp_path / "base", {Q: torch.ones(3, 4, dtype=torch.bfloat16), "lm_head.weight": torch.ones(2)})


def test_a_trained_model_and_a_trained_adapter_are_sound(base: Path, tmp_path: Path) -> None:
    assert problems(base, folder(tmp_path / "model", {Q: torch.full((3, 4), 1.5)})) == []
    adapter = {A: torch.ones(2, 4), B: torch.ones(3, 2)}
    assert problems(base, folder(tmp_path / "adapter", adapter, ADAPTER)) == []


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({Q: torch.ones(3, 4)}, "every weight is the base model's: it was never updated"),
        ({"q": torch.ones(3, 4)}, f"2 weights have other names than the base model's: only the base model has {Q}"),
        ({Q: torch.full((3, 4), float("nan"))}, f"{Q} has values that are no numbers"),
        ({}, "there are no weights"),
    ],
)
def test_a_model_that_is_no_result_is_told(base: Path, tmp_path: Path, tensors: dict[str, Any], problem: str) -> None:
    assert problems(base, folder(tmp_path / "model", tensors)) == [problem]


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({A: torch.ones(2, 4), B: torch.zeros(3, 2)}, "the adapter changes nothing: it was never updated"),
        ({A: torch.ones(2, 5), B: torch.ones(3, 2)}, f"{A} is (2, 5), but the base model's {Q} is (3, 4)"),
        (
            {A.replace("q", "v"): torch.ones(2, 4), B.replace("q", "v"): torch.ones(3, 2)},
            f"{A.replace('q', 'v')}: the base model has no model.layers.0.v.weight",
        ),
    ],
)
def test_an_adapter_that_is_no_result_is_told(
    base: Path, tmp_path: Path, tensors: dict[str, Any], problem: str
) -> None:
    assert problems(base, folder(tmp_path / "adapter", tensors, ADAPTER)) == [problem]
