"""Prompts and completions as padded tensors, and the pass that computes each prompt once for its whole group."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch, tokenizers and safetensors are only partly typed)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from emulator.lm.model import Fresh, KeyValue, Llama, Prefix, causal_mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """P prompts, padded on the left so that all end at the same place."""

    ids: Tensor
    """[P, L]"""
    real: Tensor
    """Whether a position is not padding. [P, L]"""

    @property
    def lengths(self) -> Tensor:
        return self.real.sum(1)

    @staticmethod
    def pad(tokens: Sequence[Sequence[int]]) -> Prompts:
        ids, real = _pad([row[::-1] for row in tokens])
        return Prompts(ids=ids.flip(1), real=real.flip(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Completions:
    """N completions, padded on the right; completion i continues prompt `owner[i]`."""

    ids: Tensor
    """[N, T]"""
    real: Tensor
    """1 for every token up to and including the end token, 0 for padding. [N, T], float"""
    owner: Tensor
    """[N]"""

    @staticmethod
    def pad(tokens: Sequence[Sequence[int]], owner: Sequence[int]) -> Completions:
        ids, real = _pad(tokens)
        return Completions(ids=ids, real=real.float(), owner=torch.tensor(owner))


def _pad(tokens: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    rows = [torch.tensor(row, dtype=torch.int64) for row in tokens]
    lengths = torch.tensor([len(row) for row in tokens])
    ids = pad_sequence(rows, batch_first=True)
    return ids, torch.arange(ids.shape[1]) < lengths.unsqueeze(1)


def read_prompts(model: Llama, prompts: Prompts) -> tuple[list[KeyValue], Tensor]:
    """Keys and values of every layer, and the last hidden state of each prompt [P, hidden]."""
    memory = Fresh()
    positions = (prompts.real.cumsum(1) - 1).clamp_(min=0)
    mask = causal_mask(prompts.real, prompts.ids.shape[1])
    hidden = model(prompts.ids, positions, mask, memory, only_last=True)
    return memory.layers, hidden[:, -1]


def completion_logits(model: Llama, prompts: Prompts, completions: Completions) -> Tensor:
    """Logits [N, T, vocabulary] that predict each completion token. Equal to a plain pass over prompt + completion.

    The prompt of a group is computed once, with gradient; its completions attend to the same keys and values.
    """
    layers, last = read_prompts(model, prompts)
    owner, before = completions.owner, completions.ids[:, :-1]
    length = before.shape[1]
    first = last.index_select(0, owner).unsqueeze(1)
    if not length:
        return model.logits(first)
    positions = prompts.lengths.index_select(0, owner).unsqueeze(1) + torch.arange(length)
    real = torch.cat((prompts.real.index_select(0, owner), completions.real[:, :-1] > 0), 1)
    hidden = model(before, positions, causal_mask(real, length), Prefix(layers, owner))
    return model.logits(torch.cat((first, hidden), 1))
