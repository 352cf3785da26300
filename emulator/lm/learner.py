"""What a batch teaches: its gradient, in parts that fit into memory and that ranks can share out, and its metrics."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch, tokenizers and safetensors are only partly typed)

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emulator.lm.batch import Completions, Prompts, completion_hidden
from emulator.lm.blocked import chosen
from emulator.lm.drawn import Drawn
from emulator.lm.loss import TokenStats, clip_metrics, masked_mean, row_weights, token_losses
from emulator.lm.model import Llama
from runner.spec.model import Grpo

UPDATE_POSITIONS = 4096
UPDATE_LOGITS = 2**26
"""Most positions (prompts and completions, padding included), and most positions times vocabulary, in one forward and
backward pass: they bound the memory."""

Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What one step learns from: N completions."""

    drawn: Drawn
    advantages: Sequence[float]
    tokens: float
    """What dapo and cispo divide by."""
    passes: Sequence[int] | None = None
    """TRL's forward pass of each completion, for bnpo; None: one for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Part of a lesson that is computed at once."""

    prompts: Prompts
    completions: Completions
    advantages: Tensor
    mask: Tensor
    weights: Tensor
    old_logps: Tensor | None
    """None: those of this pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Results of one chunk of n completions, kept for the metrics: [n, T], a ratio may be [n, 1]."""

    loss: float
    advantages: Floats
    mask: Floats
    entropy: Floats
    ratio: Floats
    kl: Floats | None


class Learner:
    """The model in training, and the reference that it may not stray from."""

    def __init__(self, model: Llama, reference: Llama | None, grpo: Grpo, end: Set[int]) -> None:
        self._model, self._reference, self._grpo, self._end = model, reference, grpo, end

    def backward(self, lesson: Lesson, part: slice[int, int, None]) -> list[Totals]:
        """Adds the gradient of these of the completions; see `emulator.lm.loss`."""
        return [self._backward(chunk, lesson.drawn.temperature) for chunk in self._chunks(lesson, part)]

    def log_probabilities(self, drawn: Drawn) -> Tensor:
        """Of every token under the policy as it is. [N, T]"""
        lesson = Lesson(drawn=drawn, advantages=[0.0] * len(drawn.tokens), tokens=1.0)
        chunks = self._chunks(lesson, slice(0, len(drawn.tokens)))
        width = max(map(len, drawn.tokens))
        return _stack([_frozen(self._model, chunk, drawn.temperature) for chunk in chunks], width)

    def counted(self, drawn: Drawn) -> int:
        """Tokens in the loss."""
        return sum(len(tokens) for tokens in drawn.tokens if self._counts(tokens))

    def _counts(self, tokens: Sequence[int]) -> bool:
        """Whether a completion is in the loss."""
        return not self._grpo.mask_truncated_completions or tokens[-1] in self._end

    def _chunks(self, lesson: Lesson, part: slice[int, int, None]) -> Iterator[Chunk]:
        """The part in chunks that are computed at once."""
        drawn = lesson.drawn
        everything = Completions.pad(drawn.tokens, drawn.owner)
        mask = everything.real.clone()
        mask[[i for i, row in enumerate(drawn.tokens) if not self._counts(row)]] = 0.0
        passes = None if lesson.passes is None else torch.tensor(lesson.passes)
        weights = row_weights(mask, self._grpo, lesson.tokens, passes)
        limit = min(UPDATE_POSITIONS, UPDATE_LOGITS // self._model.config.vocab_size)
        for rows in _rows_of_chunks(drawn, part, limit):
            first, last = drawn.owner[rows.start], drawn.owner[rows.stop - 1]
            completions = Completions.pad(drawn.tokens[rows], [owner - first for owner in drawn.owner[rows]])
            width = completions.ids.shape[1]
            yield Chunk(
                prompts=Prompts.pad(drawn.prompts[first : last + 1]),
                completions=completions,
                advantages=torch.tensor(lesson.advantages[rows], dtype=torch.float32),
                mask=mask[rows, :width],
                weights=weights[rows],
                old_logps=None if drawn.old_logps is None else drawn.old_logps[rows, :width],
            )

    def _backward(self, chunk: Chunk, temperature: float) -> Totals:
        logps, entropy = _log_probabilities(self._model, chunk, temperature)
        stats = TokenStats(
            logps=logps,
            old_logps=logps.detach() if chunk.old_logps is None else chunk.old_logps,
            reference_logps=None if self._reference is None else _frozen(self._reference, chunk, temperature),
            mask=chunk.mask,
        )
        terms = token_losses(stats, chunk.advantages, self._grpo)
        loss = (terms.loss * chunk.mask * chunk.weights).sum()
        loss.backward()
        return Totals(
            loss=loss.item(),
            advantages=chunk.advantages.numpy(),
            mask=chunk.mask.numpy(),
            entropy=entropy.numpy(),
            ratio=terms.ratio.detach().numpy(),
            kl=None if terms.kl is None else terms.kl.detach().numpy(),
        )


@torch.no_grad()
def _frozen(model: Llama, chunk: Chunk, temperature: float) -> Tensor:
    """Log-probabilities under a model, without gradient. [rows, T]"""
    return _log_probabilities(model, chunk, temperature)[0]


def _log_probabilities(model: Llama, chunk: Chunk, temperature: float) -> tuple[Tensor, Tensor]:
    """Of every token, and the entropy of what it was chosen from. Both [rows, T]"""
    hidden = completion_hidden(model, chunk.prompts, chunk.completions)
    return chosen(hidden, model.head, chunk.completions.ids, temperature)


def _rows_of_chunks(drawn: Drawn, part: slice[int, int, None], limit: int) -> Iterator[slice[int, int, None]]:
    """The part's rows in order, as many at a time as fit into `limit` positions; a prompt counts once in each chunk."""
    prompt, completion = max(map(len, drawn.prompts)), max(map(len, drawn.tokens))
    start, cost = part.start, prompt + completion
    for row in range(part.start + 1, part.stop):
        more = completion + (prompt if drawn.owner[row] != drawn.owner[row - 1] else 0)
        if cost + more > limit:
            yield slice(start, row)
            start, cost = row, prompt
            more = completion
        cost += more
    if start < part.stop:
        yield slice(start, part.stop)


def metrics(totals: Sequence[Totals], grpo: Grpo) -> dict[str, float]:
    """The step's metrics over all chunks, under TRL's names."""
    width = max(total.mask.shape[1] for total in totals)

    def stacked(parts: Sequence[Floats]) -> Tensor:
        return _stack([torch.from_numpy(part) for part in parts], width)

    mask, ratio = stacked([total.mask for total in totals]), stacked([total.ratio for total in totals])
    advantages = torch.cat([torch.from_numpy(total.advantages) for total in totals])
    figures = {
        "loss": math.fsum(total.loss for total in totals),
        "entropy": masked_mean(stacked([total.entropy for total in totals]), mask),
    }
    if all(total.kl is not None for total in totals):
        figures["kl"] = masked_mean(stacked([total.kl for total in totals if total.kl is not None]), mask)
    return figures | clip_metrics(ratio, advantages, mask, grpo)


def _stack(parts: Sequence[Tensor], width: int) -> Tensor:
    """The chunks' tensors as one, padded with 0 to equal width; one value a row stays one value a row."""
    if all(part.shape[1] == 1 for part in parts):
        return torch.cat(list(parts))
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])
