"""Prompts and completions as padded tensors, and the passes over them."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch, tokenizers and safetensors are only partly typed)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emulator.lm.attention import Continued, KeyValue, Texts
from emulator.lm.model import Llama


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """P prompts, padded on the left so that all end at the same place."""

    ids: Tensor
    """[P, L]"""
    real: Tensor
    """Whether a position is not padding. [P, L]"""

    @staticmethod
    def pad(tokens: Sequence[Sequence[int]]) -> Prompts:
        width = max(map(len, tokens))
        ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in tokens], dtype=torch.int64)
        return Prompts(ids=ids, real=torch.arange(width) >= width - _lengths(tokens))


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
        width = max(map(len, tokens))
        ids = torch.tensor([list(row) + [0] * (width - len(row)) for row in tokens], dtype=torch.int64)
        real = torch.arange(width) < _lengths(tokens)
        return Completions(ids=ids, real=real.float(), owner=torch.tensor(owner))


def _lengths(tokens: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor([len(row) for row in tokens]).unsqueeze(1)


def read_prompts(model: Llama, prompts: Prompts) -> tuple[list[KeyValue], Tensor]:
    """Keys and values of every layer, and the last hidden state of each prompt [P, hidden]."""
    attention = Texts(model.config, prompts.real)
    hidden = model(prompts.ids.flatten(), attention)
    return attention.layers, hidden.view(*prompts.ids.shape, -1)[:, -1]


def completion_hidden(model: Llama, prompts: Prompts, completions: Completions) -> Tensor:
    """Hidden states [N, T, hidden] that predict each completion token. Equal to a plain pass over prompt + completion,
    but the prompt of a group is computed once."""
    owner, before = completions.owner, completions.ids[:, :-1]
    if not before.numel():
        return read_prompts(model, prompts)[1].index_select(0, owner).unsqueeze(1)
    attention = Continued(model.config, prompts.real, completions.real[:, :-1] > 0, owner)
    hidden = model(torch.cat((prompts.ids.flatten(), before.flatten())), attention)
    last = hidden[: prompts.ids.numel()].view(*prompts.ids.shape, -1)[:, -1]
    behind = hidden[prompts.ids.numel() :].view(*before.shape, -1)
    return torch.cat((last.index_select(0, owner).unsqueeze(1), behind), 1)


def completion_logits(model: Llama, prompts: Prompts, completions: Completions) -> Tensor:
    """Logits [N, T, vocabulary] of the same."""
    return model.logits(completion_hidden(model, prompts, completions))
