"""What a `config.json` says of a model's shape. Needs no torch, so that a job can be checked without it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulator.lm.folder import read_json

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Names of a layer's matrices: what LoRA's `all-linear` means, which leaves out the output matrix as PEFT does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """What of a `config.json` shapes the computation."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_theta: float = 10000.0
    eps: float = 1e-6
    context: int = 2048
    """Positions it was made for (`max_position_embeddings`)."""
    tied: bool = False
    """Whether the output matrix is the embedding matrix."""

    @staticmethod
    def read(path: Path) -> LlamaConfig:
        """From a `config.json`. Raises ValueError for an architecture that this model does not compute."""
        raw = read_json(path)
        _refuse_other_architectures(raw, path)
        heads = int(raw["num_attention_heads"])
        return LlamaConfig(
            vocab_size=int(raw["vocab_size"]),
            hidden_size=int(raw["hidden_size"]),
            intermediate_size=int(raw["intermediate_size"]),
            layers=int(raw["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(raw.get("num_key_value_heads") or heads),
            head_dim=int(raw.get("head_dim") or int(raw["hidden_size"]) // heads),
            rope_theta=float(_rope(raw).get("rope_theta") or raw.get("rope_theta") or 10000.0),
            eps=float(raw.get("rms_norm_eps", 1e-6)),
            context=int(raw.get("max_position_embeddings") or 2048),
            tied=bool(raw.get("tie_word_embeddings", False)),
        )


def _rope(raw: dict[str, Any]) -> dict[str, Any]:
    """The rotary settings: `rope_parameters` in newer files, `rope_scaling` in older ones."""
    return raw.get("rope_parameters") or raw.get("rope_scaling") or {}


def _refuse_other_architectures(raw: dict[str, Any], path: Path) -> None:
    rope = _rope(raw)
    wanted = {
        "model_type": (raw.get("model_type"), ("llama",)),
        "hidden_act": (raw.get("hidden_act", "silu"), ("silu",)),
        "attention_bias": (raw.get("attention_bias", False), (False, None)),
        "mlp_bias": (raw.get("mlp_bias", False), (False, None)),
        "rope_type": (rope.get("rope_type", rope.get("type", "default")), ("default",)),
    }
    for name, (value, known) in wanted.items():
        if value not in known:
            raise ValueError(f"{path}: {name} is {value!r}; the emulator computes only {known[0]!r}")
