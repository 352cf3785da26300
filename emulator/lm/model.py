"""A decoder of Llama architecture in plain torch: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

It reads and writes Hugging Face model folders (`config.json`, `model.safetensors`), so transformers opens the same
files. Inside, q/k/v and gate/up are one matrix each: a tiny model is bound by the number of operations, not by size.
Everything computes in float32, whatever the file holds.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch, tokenizers and safetensors are only partly typed)

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one layer, each [rows, key-value heads, positions, head size]."""


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
    tied: bool = False
    """Whether the output matrix is the embedding matrix."""

    @staticmethod
    def read(path: Path) -> LlamaConfig:
        """From a `config.json`. Raises ValueError for an architecture that this model does not compute."""
        raw: dict[str, Any] = json.loads(path.read_text())
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


class Memory(Protocol):
    """Where a pass finds the keys and values of earlier positions, and leaves its own."""

    def extend(self, layer: int, key: Tensor, value: Tensor) -> KeyValue:
        """All keys and values to attend to, the new ones last."""
        ...


class Fresh:
    """Memory of a first pass: keeps every layer's keys and values in `layers`."""

    def __init__(self) -> None:
        self.layers: list[KeyValue] = []

    def extend(self, layer: int, key: Tensor, value: Tensor) -> KeyValue:
        self.layers.append((key, value))
        return key, value


class Prefix:
    """Memory of a pass behind shared prefixes: row i of the new pass continues row `owner[i]` of `layers`.

    Differentiable: a prefix gets the gradient of all its continuations.
    """

    def __init__(self, layers: list[KeyValue], owner: Tensor) -> None:
        self._layers, self._owner = layers, owner

    def extend(self, layer: int, key: Tensor, value: Tensor) -> KeyValue:
        keys, values = (tensor.index_select(0, self._owner) for tensor in self._layers[layer])
        return torch.cat((keys, key), 2), torch.cat((values, value), 2)


class Block(nn.Module):
    """One layer: attention and feed-forward, each behind a norm and added to its input."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        width = config.heads * config.head_dim
        self.norm1 = nn.Parameter(torch.ones(config.hidden_size))
        self.qkv = nn.Parameter(torch.empty(width + 2 * config.kv_heads * config.head_dim, config.hidden_size))
        self.out = nn.Parameter(torch.empty(config.hidden_size, width))
        self.norm2 = nn.Parameter(torch.ones(config.hidden_size))
        self.gate_up = nn.Parameter(torch.empty(2 * config.intermediate_size, config.hidden_size))
        self.down = nn.Parameter(torch.empty(config.hidden_size, config.intermediate_size))

    def forward(self, x: Tensor, rope: KeyValue, mask: Tensor | None, layer: int, memory: Memory) -> Tensor:
        x = x + self._attend(F.rms_norm(x, x.shape[-1:], self.norm1, self.config.eps), rope, mask, layer, memory)
        gate, up = F.linear(F.rms_norm(x, x.shape[-1:], self.norm2, self.config.eps), self.gate_up).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, self.down)

    def _attend(self, x: Tensor, rope: KeyValue, mask: Tensor | None, layer: int, memory: Memory) -> Tensor:
        c, (rows, length, _) = self.config, x.shape
        heads = F.linear(x, self.qkv).view(rows, length, c.heads + 2 * c.kv_heads, c.head_dim).transpose(1, 2)
        turned = _rotate(heads[:, : c.heads + c.kv_heads], rope)
        query, key = turned[:, : c.heads], turned[:, c.heads :]
        keys, values = memory.extend(layer, key, heads[:, c.heads + c.kv_heads :])
        grouped = c.heads != c.kv_heads
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, enable_gqa=grouped)
        return F.linear(mixed.transpose(1, 2).reshape(rows, length, c.heads * c.head_dim), self.out)


def _rotate(x: Tensor, rope: KeyValue) -> Tensor:
    """Rotary position embedding (Su et al. 2021) in Hugging Face's layout: pairs are (i, i + half)."""
    cos, sin = rope
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


class Llama(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.Parameter(torch.ones(config.hidden_size))
        self.head = self.embed if config.tied else nn.Parameter(torch.empty_like(self.embed))
        steps = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
        self._frequencies = 1.0 / config.rope_theta**steps

    def forward(self, ids: Tensor, positions: Tensor, mask: Tensor | None, memory: Memory) -> Tensor:
        """Last hidden states [rows, length, hidden] of `ids` [rows, length] at `positions` (same shape).

        `mask` is added to the attention scores, [rows, 1, length, everything `memory` holds]; None attends to all.
        """
        angles = positions.unsqueeze(-1) * self._frequencies
        rope = (angles.cos().unsqueeze(1), angles.sin().unsqueeze(1))
        x = F.embedding(ids, self.embed)
        for layer, block in enumerate(self.blocks):
            x = block(x, rope, mask, layer, memory)
        return F.rms_norm(x, x.shape[-1:], self.norm, self.config.eps)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.head)


def causal_mask(real: Tensor, queries: int) -> Tensor:
    """Additive mask [rows, 1, queries, keys]: the last `queries` positions see themselves and the real ones before.

    `real` [rows, keys] marks positions that are not padding. A padded query sees itself, so that no row is all -inf.
    """
    rows, keys = real.shape
    order = torch.arange(keys)
    mine = order[keys - queries :].unsqueeze(1)
    seen = (order <= mine) & real.unsqueeze(1) | (order == mine)
    return torch.zeros(rows, queries, keys).masked_fill_(~seen, float("-inf")).unsqueeze(1)


def load_model(folder: Path) -> Llama:
    """The model of a Hugging Face folder, in float32. Raises ValueError for another architecture, OSError if absent."""
    model = Llama(LlamaConfig.read(folder / "config.json"))
    tensors = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    model.load_state_dict(_fuse(tensors, model.config))
    return model


def save_weights(model: Llama, path: Path) -> None:
    """Writes `model.safetensors` under Hugging Face's names."""
    save_file(_split(model.state_dict(), model.config), path, metadata={"format": "pt"})


_FUSED = {
    "norm1": ("input_layernorm",),
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "norm2": ("post_attention_layernorm",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""Our parameter of a layer → Hugging Face's, whose rows it holds one after the other."""


def _fuse(tensors: dict[str, Tensor], config: LlamaConfig) -> dict[str, Tensor]:
    ours = {"embed": tensors["model.embed_tokens.weight"], "norm": tensors["model.norm.weight"]}
    ours["head"] = ours["embed"] if config.tied else tensors["lm_head.weight"]
    for layer in range(config.layers):
        for name, theirs in _FUSED.items():
            parts = [tensors[f"model.layers.{layer}.{part}.weight"] for part in theirs]
            ours[f"blocks.{layer}.{name}"] = torch.cat(parts)
    return ours


def _split(ours: dict[str, Tensor], config: LlamaConfig) -> dict[str, Tensor]:
    query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
    rows = {"qkv": [query, key, key], "gate_up": [config.intermediate_size] * 2}
    tensors = {"model.embed_tokens.weight": ours["embed"], "model.norm.weight": ours["norm"]}
    if not config.tied:
        tensors["lm_head.weight"] = ours["head"]
    for layer in range(config.layers):
        for name, theirs in _FUSED.items():
            tensor = ours[f"blocks.{layer}.{name}"]
            for part, piece in zip(theirs, tensor.split(rows.get(name, [len(tensor)])), strict=True):
                tensors[f"model.layers.{layer}.{part}.weight"] = piece.contiguous()
    return tensors
