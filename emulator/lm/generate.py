"""Draws completions: one pass over each prompt, then one token at a time (`emulator.lm.decode`).

Every completion has a seed of its own and nothing else is random: token t of seed s is decided by one uniform number
that is a hash of (s, t). So there is no generator state, and a completion does not depend on what else is in the batch
(but for the rounding of the matrix products, whose order of summation depends on the number of rows).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch, tokenizers and safetensors are only partly typed)

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emulator.lm.batch import Prompts, read_prompts
from emulator.lm.decode import Decoder
from emulator.lm.model import Llama
from emulator.policy import Sampling

POSITIONS = 32768
"""Most positions (prompt and completion, padding included) computed side by side: bounds the memory."""


def generate(
    model: Llama, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]], sampling: Sampling, end: Set[int]
) -> list[list[list[int]]]:
    """Token ids [prompt][seed][token], the end token included where one was drawn. `end`: ids that end a completion."""
    result: list[list[list[int]]] = []
    width = max((len(prompt) for prompt in prompts), default=0) + sampling.max_completion_length
    for chunk in _chunks([len(row) for row in seeds], POSITIONS // width):
        flat = _generate(model, prompts[chunk], seeds[chunk], sampling, end)
        for row in seeds[chunk]:
            result.append(flat[: len(row)])
            flat = flat[len(row) :]
    return result


def _chunks(sizes: Sequence[int], most: int) -> list[slice[int, int, None]]:
    """Runs of whole groups with at most `most` completions each (a larger group stands alone)."""
    chunks: list[slice[int, int, None]] = []
    start = rows = 0
    for i, size in enumerate(sizes):
        if i > start and rows + size > most:
            chunks.append(slice(start, i))
            start, rows = i, 0
        rows += size
    return [*chunks, slice(start, len(sizes))] if sizes else []


@torch.inference_mode()
def _generate(
    model: Llama, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]], sampling: Sampling, end: Set[int]
) -> list[list[int]]:
    padded = Prompts.pad(prompts)
    owner = torch.tensor([i for i, row in enumerate(seeds) for _ in row])
    layers, last = read_prompts(model, padded)
    decoder = Decoder(model, padded, layers, owner, sampling.max_completion_length)
    draw = Draw.of(sampling, [seed for row in seeds for seed in row])
    seen = _seen(padded, owner, model.config.vocab_size) if sampling.repetition_penalty != 1.0 else None
    goes_on = torch.ones(model.config.vocab_size, dtype=torch.bool)
    goes_on[[token for token in end if 0 <= token < len(goes_on)]] = False
    drawn = torch.zeros(sampling.max_completion_length, len(owner), dtype=torch.int64)
    rows = torch.arange(len(owner))
    """The completion that each row of the decoder belongs to: rows that have ended are dropped now and then."""
    alive = torch.ones(len(owner), dtype=torch.bool)
    logits = model.logits(last).index_select(0, owner)
    for position in range(sampling.max_completion_length):
        tokens = draw(logits, position, seen)
        drawn[position].index_copy_(0, rows, tokens)
        alive &= goes_on.index_select(0, tokens)
        left = int(alive.sum())
        if left == 0 or position + 1 == sampling.max_completion_length:
            break
        if left <= 0.75 * len(rows):
            keep = alive.nonzero().squeeze(1)
            rows, tokens, alive = rows[keep], tokens[keep], alive[keep]
            seen = None if seen is None else seen[keep]
            decoder.keep(keep)
            draw.keep(keep)
        if seen is not None:
            seen.scatter_(1, tokens.unsqueeze(1), True)
        logits = decoder(tokens)
    return [_until(row, end) for row in drawn.T.tolist()]


def _until(tokens: list[int], end: Set[int]) -> list[int]:
    """The tokens up to and including the first that ends a completion."""
    return tokens[: next((i for i, token in enumerate(tokens) if token in end), len(tokens)) + 1]


def _seen(prompts: Prompts, owner: Tensor, vocab_size: int) -> Tensor:
    """Which tokens a prompt has, for the repetition penalty. [N, vocabulary]"""
    seen = torch.zeros(len(prompts.ids), vocab_size, dtype=torch.bool)
    for row, ids, real in zip(seen, prompts.ids, prompts.real, strict=True):
        row[ids[real]] = True
    return seen.index_select(0, owner)


@dataclass(slots=True)
class Draw:
    """Chooses the next token of every row: filters in transformers' order, then inverse transform sampling."""

    sampling: Sampling
    numbers: Tensor
    """One uniform number for each position and row. [T, rows], double"""

    @staticmethod
    def of(sampling: Sampling, seeds: Sequence[int]) -> Draw:
        return Draw(sampling, torch.from_numpy(uniform(seeds, sampling.max_completion_length)))

    def keep(self, rows: Tensor) -> None:
        """Drops the other rows."""
        self.numbers = self.numbers.index_select(1, rows)

    def __call__(self, logits: Tensor, position: int, seen: Tensor | None) -> Tensor:
        """Tokens [rows] from logits [rows, vocabulary]."""
        sampling = self.sampling
        if seen is not None:
            logits = _penalize(logits, seen, sampling.repetition_penalty)
        if sampling.temperature == 0:
            return logits.argmax(-1)
        if sampling.temperature != 1:
            logits = logits / sampling.temperature
        return choose(_filter(logits, sampling), self.numbers[position])


def uniform(seeds: Sequence[int], length: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Numbers in [0, 1), [length, seeds]: a column is SplitMix64's output (Steele et al. 2014) started at its seed."""
    steps = np.array([(position + 1) * 0x9E3779B97F4A7C15 % 2**64 for position in range(length)], dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = np.array(seeds, dtype=np.uint64) + steps[:, np.newaxis]
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def choose(logits: Tensor, u: Tensor) -> Tensor:
    """The token at which the cumulated probability passes u [rows]. Never one of probability 0."""
    cumulated = logits.softmax(-1).double().cumsum(-1)
    return torch.searchsorted(cumulated, (u * cumulated[:, -1]).unsqueeze(1), right=True).squeeze(1)


def _penalize(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Repetition penalty (Keskar et al. 2019), as transformers: seen tokens' logits move down by the factor."""
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def _filter(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits with -inf where top_k, top_p or min_p leaves a token out, in this order."""
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[:, -1:], float("-inf"))
    if sampling.top_p < 1.0:
        logits = _nucleus(logits, sampling.top_p)
    if sampling.min_p > 0.0:
        probabilities = logits.softmax(-1)
        least = sampling.min_p * probabilities.amax(-1, keepdim=True)
        logits = logits.masked_fill(probabilities < least, float("-inf"))
    return logits


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Keeps the smallest set of most likely tokens whose probabilities sum to at least top_p (Holtzman et al. 2020)."""
    ordered, order = logits.sort(-1, descending=True)
    probabilities = ordered.softmax(-1)
    beyond = probabilities.cumsum(-1) - probabilities >= top_p
    return logits.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), float("-inf"))
