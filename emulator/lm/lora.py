"""LoRA (Hu et al. 2021) as a reparametrisation: the model computes with W = W₀ + (α/r)·B·A, merged once an update.

So generation and the backward pass are those of the plain model, and the gradients of A and B follow from W's by the
chain rule. Same numbers as PEFT's two-branch form but for rounding; the saved folder is PEFT's.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch, tokenizers and safetensors are only partly typed)

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from emulator.lm.config import LINEAR
from emulator.lm.model import Llama, parts
from runner.spec.model import Lora


@dataclass(frozen=True, slots=True)
class Branch:
    """The adapter of one of Hugging Face's matrices: rows `start` … of one of ours."""

    name: str
    start: int
    a: nn.Parameter
    """[rank, in]"""
    b: nn.Parameter
    """[out, rank]"""

    def rows(self, matrix: Tensor) -> Tensor:
        return matrix[self.start : self.start + len(self.b)]


class Adapter:
    """Trainable low-rank parts of a model, whose own parameters it freezes but for the matrices it changes.

    A is drawn as PEFT draws it (Kaiming uniform with a = √5, so ±1/√in) from the seed, B is 0.
    """

    def __init__(self, model: Llama, lora: Lora, seed: int) -> None:
        self._scale, self._lora = lora.alpha / lora.rank, lora
        model.requires_grad_(False)
        numbers = np.random.default_rng(seed)
        self._branches: dict[str, list[Branch]] = {}
        for name, pieces in parts(model.config).items():
            start, found = 0, list[Branch]()
            for piece, rows in pieces.items():
                if piece.rpartition(".")[2] in targets(lora):
                    found.append(_branch(piece, start, rows, model.get_parameter(name).shape[1], lora.rank, numbers))
                start += rows
            if found:
                self._branches[name] = found
        self._matrices = {name: model.get_parameter(name).requires_grad_() for name in self._branches}
        self._base = {name: matrix.detach().clone() for name, matrix in self._matrices.items()}

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, under PEFT's names."""
        named: dict[str, nn.Parameter] = {}
        for branches in self._branches.values():
            for branch in branches:
                named[f"base_model.model.{branch.name}.lora_A.weight"] = branch.a
                named[f"base_model.model.{branch.name}.lora_B.weight"] = branch.b
        return named

    @torch.no_grad()
    def collect_gradients(self) -> None:
        """dA = (α/r)·Bᵀ·dW and dB = (α/r)·dW·Aᵀ, from the gradients of the merged matrices."""
        for name, branches in self._branches.items():
            gradient = self._matrices[name].grad
            for branch in branches:
                mine = torch.zeros_like(branch.b @ branch.a) if gradient is None else branch.rows(gradient)
                branch.a.grad = self._scale * branch.b.T @ mine
                branch.b.grad = self._scale * mine @ branch.a.T

    @torch.no_grad()
    def merge(self) -> None:
        """Sets the model's matrices to W₀ + (α/r)·B·A. Call after every change of A or B."""
        for name, branches in self._branches.items():
            self._matrices[name].copy_(self._base[name])
            for branch in branches:
                branch.rows(self._matrices[name].data).add_(branch.b @ branch.a, alpha=self._scale)

    def save(self, folder: Path, base: Path) -> None:
        """Writes what `PeftModel.from_pretrained` reads; `base` is the folder of the model under the adapter."""
        tensors: Mapping[str, Tensor] = {name: value.detach() for name, value in self.parameters.items()}
        save_file(dict(tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})
        settings = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str(base),
            "r": self._lora.rank,
            "lora_alpha": self._lora.alpha,
            "lora_dropout": 0.0,
            "target_modules": sorted(targets(self._lora)),
            "bias": "none",
            "inference_mode": True,
        }
        (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n")

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        stored = load_file(folder / "adapter_model.safetensors")
        for name, parameter in self.parameters.items():
            parameter.copy_(stored[name])
        self.merge()


def targets(lora: Lora) -> frozenset[str]:
    """Last parts of the names of the layers that get an adapter; all, where the job names layers of other models."""
    named = frozenset(LINEAR) & frozenset(lora.target_modules if lora.target_modules != "all-linear" else ())
    return named or frozenset(LINEAR)


def _branch(name: str, start: int, rows: int, columns: int, rank: int, numbers: np.random.Generator) -> Branch:
    bound = columns**-0.5
    a = numbers.uniform(-bound, bound, (rank, columns)).astype(np.float32)
    return Branch(name, start, nn.Parameter(torch.from_numpy(a)), nn.Parameter(torch.zeros(rows, rank)))
