"""One token further, for many completions at once: the same model as `Llama.forward`, in a third of its calls of torch.

At a few dozen rows of a tiny model a call costs more than its arithmetic, and what stays the same between tokens is
made beforehand. Two identities save most of the calls:

Rotary embedding is x·cos + x'·sin, where x' is x turned by a right angle, which a matrix gives with rows of its own.

RMSNorm(x) is the first half of LayerNorm([x, −x]), whose mean is 0 and whose variance is the mean of x². torch has a
single operation for it. So the residual stream is kept as [x, −x], and what is added to it comes as [y, −y].
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch, tokenizers and safetensors are only partly typed)

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from emulator.lm.attention import KeyValue, frequencies
from emulator.lm.batch import Prompts
from emulator.lm.config import LlamaConfig
from emulator.lm.model import Block, Llama


class Weights(NamedTuple):
    """Of one layer, as they are multiplied from the right."""

    norm1: Tensor
    qkv: Tensor
    """Queries (times 1/√size), keys and values, then the same turned. [hidden, 2 · (queries, keys and values)]"""
    out: Tensor
    norm2: Tensor
    gate_up: Tensor
    down: Tensor


class Decoder:
    """Completions behind prompts that were read: a row each, with static memory for the keys and values of `room`
    tokens more.

    Keys are [rows · key-value heads, size, positions], values [rows · key-value heads, positions, size], as the two
    products of attention take them.
    """

    def __init__(self, model: Llama, prompts: Prompts, layers: list[KeyValue], owner: Tensor, room: int) -> None:
        c = self._config = model.config
        self._embed = torch.cat((model.embed, -model.embed), 1)
        self._layers = [_weights(cast(Block, block), c) for block in model.blocks]
        self._norm, self._head = _doubled(model.norm), model.head.T
        self._used, end = prompts.ids.shape[1], prompts.ids.shape[1] + room
        real = prompts.real.index_select(0, owner)
        self._positions = real.sum(1)
        self._cos, self._sin = _angles(c, end)
        self._mask = torch.zeros(len(owner) * c.kv_heads, 1, end)
        self._mask[:, 0, : self._used].masked_fill_(~real.repeat_interleave(c.kv_heads, 0), float("-inf"))
        self._keys = [_with_room(key, owner, room).mT.contiguous() for key, _ in layers]
        self._values = [_with_room(value, owner, room) for _, value in layers]

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits [rows, vocabulary] of what comes behind one more token of each row [rows]."""
        x = F.embedding(tokens, self._embed)
        cos, sin = self._cos.index_select(0, self._positions), self._sin.index_select(0, self._positions)
        for layer, weights in enumerate(self._layers):
            mixed = self._attend(self._normed(x, weights.norm1), layer, cos, sin)
            x = torch.addmm(x, mixed, weights.out)
            gate, up = torch.mm(self._normed(x, weights.norm2), weights.gate_up).chunk(2, 1)
            x = torch.addmm(x, F.silu(gate).mul_(up), weights.down)
        self._used += 1
        self._positions += 1
        return torch.mm(self._normed(x, self._norm), self._head)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        hidden = self._config.hidden_size
        return torch.layer_norm(x, (2 * hidden,), weight, None, self._config.eps)[:, :hidden]

    def _attend(self, x: Tensor, layer: int, cos: Tensor, sin: Tensor) -> Tensor:
        c, at, end = self._config, self._used, self._used + 1
        straight, turned = torch.mm(x, self._layers[layer].qkv).chunk(2, 1)
        qkv = (straight * cos).addcmul_(turned, sin)
        query, key, value = qkv.split((c.heads * c.head_dim, c.kv_heads * c.head_dim, c.kv_heads * c.head_dim), 1)
        keys, values = self._keys[layer], self._values[layer]
        keys[:, :, at] = key.reshape(-1, c.head_dim)
        values[:, at] = value.reshape(-1, c.head_dim)
        query = query.reshape(-1, c.heads // c.kv_heads, c.head_dim)
        p = torch.baddbmm(self._mask[:, :, :end], query, keys[:, :, :end]).softmax(-1)
        return torch.bmm(p, values[:, :end]).view(len(x), -1)

    def keep(self, rows: Tensor) -> None:
        """Drops the other rows."""
        heads = self._config.kv_heads
        each = (rows.unsqueeze(1) * heads + torch.arange(heads)).flatten()
        self._keys = [keys.index_select(0, each) for keys in self._keys]
        self._values = [values.index_select(0, each) for values in self._values]
        self._mask, self._positions = self._mask.index_select(0, each), self._positions.index_select(0, rows)


def _weights(block: Block, c: LlamaConfig) -> Weights:
    return Weights(
        norm1=_doubled(block.norm1),
        qkv=_with_turned(block.qkv, c).T,
        out=torch.cat((block.out, -block.out)).T,
        norm2=_doubled(block.norm2),
        gate_up=block.gate_up.T,
        down=torch.cat((block.down, -block.down)).T,
    )


def _doubled(norm: Tensor) -> Tensor:
    return torch.cat((norm, norm))


def _with_turned(qkv: Tensor, c: LlamaConfig) -> Tensor:
    """The matrix of queries, keys and values, and below it the same turned: 0 for values, which stay as they are."""
    vectors, size = c.heads + c.kv_heads, c.head_dim
    scaled = qkv.clone()
    scaled[: c.heads * size] *= size**-0.5
    first, second = scaled[: vectors * size].view(vectors, 2, size // 2, -1).unbind(1)
    turned = torch.zeros_like(scaled)
    turned[: vectors * size] = torch.stack((-second, first), 1).view(vectors * size, -1)
    return torch.cat((scaled, turned))


def _angles(c: LlamaConfig, positions: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position [positions, width of queries, keys and values]: 1 and 0 for values."""
    angles = torch.arange(positions).unsqueeze(1) * frequencies(c)
    none = torch.zeros(positions, c.kv_heads * c.head_dim)
    angles = torch.cat((angles.repeat(1, 2 * (c.heads + c.kv_heads)), none), 1)
    return angles.cos(), angles.sin()


def _with_room(prompt: Tensor, owner: Tensor, room: int) -> Tensor:
    _, heads, length, size = prompt.shape
    wide = prompt.new_zeros(len(owner), heads, length + room, size)
    wide[:, :, :length] = prompt.index_select(0, owner)
    return wide.flatten(0, 1)
