"""A decoder of Llama architecture in plain torch: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

It reads and writes Hugging Face model folders (`config.json`, `model.safetensors`), so transformers opens the same
files. Inside, q/k/v and gate/up are one matrix each: a tiny model is bound by the number of operations, not by size.
Everything computes in float32, whatever the file holds.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch, tokenizers and safetensors are only partly typed)

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from emulator.lm.config import LlamaConfig
from emulator.lm.ops import attend, heads, linear, rms_norm, swiglu

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one layer, each [rows, key-value heads, positions, head size]."""


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
        prefixes = len(layers[0][0])
        even = torch.arange(prefixes).repeat_interleave(len(owner) // prefixes)
        self._each = len(owner) // prefixes if torch.equal(owner, even) else 0
        """Rows of every prefix, where each has as many: then its gradient is a plain sum."""

    def extend(self, layer: int, key: Tensor, value: Tensor) -> KeyValue:
        keys, values = map(self._spread, self._layers[layer])
        return torch.cat((keys, key), 2), torch.cat((values, value), 2)

    def _spread(self, prefix: Tensor) -> Tensor:
        return prefix.repeat_interleave(self._each, 0) if self._each else prefix.index_select(0, self._owner)


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

    def forward(self, x: Tensor, rope: KeyValue, mask: Tensor, layer: int, memory: Memory, wanted: int) -> Tensor:
        """What the last `wanted` positions come to; `memory` takes the keys and values of all."""
        mixed = self._attend(rms_norm(x, self.norm1, self.config.eps), rope, mask[:, :, -wanted:], layer, memory)
        x = x[:, -wanted:] + mixed
        return x + linear(swiglu(linear(rms_norm(x, self.norm2, self.config.eps), self.gate_up)), self.down)

    def _attend(self, x: Tensor, rope: KeyValue, mask: Tensor, layer: int, memory: Memory) -> Tensor:
        c, rows, wanted = self.config, len(x), mask.shape[2]
        query, key, value = heads(linear(x, self.qkv), *rope, (c.heads, c.kv_heads, c.head_dim))
        keys, values = memory.extend(layer, key, value)
        mixed = attend(query[:, :, -wanted:], keys, values, mask)
        return linear(mixed.transpose(1, 2).reshape(rows, wanted, c.heads * c.head_dim), self.out)


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

    def forward(
        self, ids: Tensor, positions: Tensor, mask: Tensor, memory: Memory, *, only_last: bool = False
    ) -> Tensor:
        """Last hidden states [rows, length, hidden] of `ids` [rows, length] at `positions` (same shape); with
        `only_last` those of the last position alone, [rows, 1, hidden].

        `mask` is added to the attention scores, [rows, 1, length, everything `memory` holds].
        """
        angles = positions.unsqueeze(-1) * self._frequencies
        rope = (angles.cos().unsqueeze(1), angles.sin().unsqueeze(1))
        x = F.embedding(ids, self.embed)
        for layer, block in enumerate(self.blocks):
            x = block(x, rope, mask, layer, memory, 1 if only_last and layer + 1 == len(self.blocks) else ids.shape[1])
        return rms_norm(x, self.norm, self.config.eps)

    def logits(self, hidden: Tensor) -> Tensor:
        return linear(hidden, self.head)


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


def parts(config: LlamaConfig) -> dict[str, dict[str, int]]:
    """Each matrix of our layers → the matrices it holds one below the other in Hugging Face's names → their rows."""
    query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
    rows = {"qkv": [query, key, key], "gate_up": [config.intermediate_size] * 2, "out": [config.hidden_size]}
    rows |= {name: [config.hidden_size] for name in ("norm1", "norm2", "down")}
    return {
        f"blocks.{layer}.{ours}": {
            f"model.layers.{layer}.{name}": count for name, count in zip(theirs, rows[ours], strict=True)
        }
        for layer in range(config.layers)
        for ours, theirs in _FUSED.items()
    }


def _fuse(tensors: dict[str, Tensor], config: LlamaConfig) -> dict[str, Tensor]:
    ours = {"embed": tensors["model.embed_tokens.weight"], "norm": tensors["model.norm.weight"]}
    ours["head"] = ours["embed"] if config.tied else tensors["lm_head.weight"]
    for name, theirs in parts(config).items():
        ours[name] = torch.cat([tensors[f"{part}.weight"] for part in theirs])
    return ours


def _split(ours: dict[str, Tensor], config: LlamaConfig) -> dict[str, Tensor]:
    tensors = {"model.embed_tokens.weight": ours["embed"], "model.norm.weight": ours["norm"]}
    if not config.tied:
        tensors["lm_head.weight"] = ours["head"]
    for name, theirs in parts(config).items():
        for part, piece in zip(theirs, ours[name].split(list(theirs.values())), strict=True):
            tensors[f"{part}.weight"] = piece.contiguous()
    return tensors
