"""A decoder of Llama architecture in plain torch: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

It reads and writes Hugging Face model folders (`config.json`, `model.safetensors`), so transformers opens the same
files. Inside, q/k/v and gate/up are one matrix each: a tiny model is bound by the number of operations, not by size.
Everything computes in float32, whatever the file holds.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch, tokenizers and safetensors are only partly typed)

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from emulator.lm.attention import Attention
from emulator.lm.blocked import feed_forward
from emulator.lm.config import LlamaConfig
from emulator.lm.ops import linear, rms_norm


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

    def forward(self, x: Tensor, layer: int, attention: Attention) -> Tensor:
        eps = self.config.eps
        mixed = attention(layer, linear(rms_norm(x, eps), self.qkv * self.norm1))
        x = x + linear(mixed, self.out)
        return x + feed_forward(rms_norm(x, eps), self.gate_up * self.norm2, self.down)


class Llama(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.Parameter(torch.ones(config.hidden_size))
        self.head = self.embed if config.tied else nn.Parameter(torch.empty_like(self.embed))

    def forward(self, ids: Tensor, attention: Attention) -> Tensor:
        """Last hidden states [positions, hidden] of token ids [positions]."""
        x = F.embedding(ids, self.embed)
        for layer, block in enumerate(self.blocks):
            x = block(x, layer, attention)
        return rms_norm(x, self.config.eps) * self.norm

    def logits(self, hidden: Tensor) -> Tensor:
        return linear(hidden, self.head)


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
