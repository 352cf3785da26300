"""How the positions of a pass see each other: the one part of the model in which they are not all treated alike."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch, tokenizers and safetensors are only partly typed)

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from emulator.lm.blocked import attend
from emulator.lm.config import LlamaConfig
from emulator.lm.ops import heads

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one layer, each [rows, key-value heads, positions, head size]."""


class Attention(Protocol):
    def __call__(self, layer: int, qkv: Tensor) -> Tensor:
        """What every position attends to [positions, heads · size], of its query, key and value one behind the other
        [positions, (heads + 2 · key-value heads) · size]."""
        ...


class Texts:
    """Texts of one length, padded on the left. Every layer's keys and values stay in `layers`."""

    def __init__(self, config: LlamaConfig, real: Tensor) -> None:
        """`real`: whether a position is not padding [rows, length]."""
        self.size = real.numel()
        self.layers: list[KeyValue] = []
        self._part = Part(config, (real.cumsum(1) - 1).clamp_(min=0), causal_mask(real, real.shape[1]))

    def __call__(self, layer: int, qkv: Tensor) -> Tensor:
        query, key, value = self._part.split(qkv)
        self.layers.append((key, value))
        return self._part.attend(query, key, value)


class Continued:
    """Prompts, and behind them in the same pass the beginnings of completions; row i continues prompt `owner[i]`.

    A prompt is computed once for all its completions and gets the gradient of all of them.
    """

    def __init__(self, config: LlamaConfig, prompts: Tensor, completions: Tensor, owner: Tensor) -> None:
        """Whether a position is not padding, of prompts [P, L] and of completions, padded on the right [N, T]."""
        self._prompts, self._owner = Texts(config, prompts), owner
        real = torch.cat((prompts.index_select(0, owner), completions), 1)
        positions = prompts.sum(1).index_select(0, owner).unsqueeze(1) + torch.arange(completions.shape[1])
        self._part = Part(config, positions, causal_mask(real, completions.shape[1]))
        even = torch.arange(len(prompts)).repeat_interleave(len(owner) // len(prompts))
        self._each = len(owner) // len(prompts) if torch.equal(owner, even) else 0
        """Completions of every prompt, where each has as many: then its gradient is a plain sum."""

    def __call__(self, layer: int, qkv: Tensor) -> Tensor:
        before = self._prompts(layer, qkv[: self._prompts.size])
        query, key, value = self._part.split(qkv[self._prompts.size :])
        keys, values = map(self._spread, self._prompts.layers[layer])
        mixed = self._part.attend(query, torch.cat((keys, key), 2), torch.cat((values, value), 2))
        return torch.cat((before, mixed))

    def _spread(self, prefix: Tensor) -> Tensor:
        return prefix.repeat_interleave(self._each, 0) if self._each else prefix.index_select(0, self._owner)


class Part:
    """Rows of a pass at their `positions` [rows, length], which see what `mask` [rows, 1, length, keys] lets them."""

    def __init__(self, config: LlamaConfig, positions: Tensor, mask: Tensor) -> None:
        angles = positions.unsqueeze(-1) * frequencies(config)
        self._rope = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
        self._mask, self._rows = mask, positions.shape
        self._sizes = config.heads, config.kv_heads, config.head_dim

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, turned by their positions, each [rows, its heads, length, size]."""
        return heads(qkv.view(*self._rows, -1), *self._rope, self._sizes)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[positions, heads · size]"""
        return attend(query, keys, values, self._mask).transpose(1, 2).reshape(self._rows.numel(), -1)


def frequencies(config: LlamaConfig) -> Tensor:
    """Angle by which each pair of a head turns from one position to the next. [size / 2]"""
    steps = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    return 1.0 / config.rope_theta**steps


def causal_mask(real: Tensor, queries: int) -> Tensor:
    """Additive mask [rows, 1, queries, keys]: the last `queries` positions see themselves and the real ones before.

    `real` [rows, keys] marks positions that are not padding. A padded query sees itself, so that no row is all -inf.
    """
    rows, keys = real.shape
    order = torch.arange(keys)
    mine = order[keys - queries :].unsqueeze(1)
    seen = (order <= mine) & real.unsqueeze(1) | (order == mine)
    return torch.zeros(rows, queries, keys).masked_fill_(~seen, float("-inf")).unsqueeze(1)
