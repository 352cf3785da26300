"""The emulator's `lm` policy: draws with `generate`, learns with AdamW on the GRPO loss, saves a model folder.

Everything that decides a result is in the folder, the settings, the seeds and the step number; nothing is kept in
generators or schedulers. So a policy that was saved and loaded goes on bitwise (same torch, CPU class and threads).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch, tokenizers and safetensors are only partly typed)

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from emulator.lm.adamw import AdamW
from emulator.lm.batch import Completions, Prompts, completion_hidden
from emulator.lm.blocked import chosen
from emulator.lm.drawn import Drawn
from emulator.lm.folder import FILES
from emulator.lm.generate import generate
from emulator.lm.lora import Adapter
from emulator.lm.loss import TokenStats, clip_metrics, masked_mean, row_weights, token_losses
from emulator.lm.model import Llama, load_model, save_weights
from emulator.lm.ops import keep_freed_memory
from emulator.lm.tokens import Tokens
from emulator.policy import Sampled, Sampling
from runner.grpo.order import micro_batch
from runner.grpo.types import Example
from runner.spec.model import Grpo, Lora

OPTIMIZER = "optimizer.safetensors"
UPDATE_POSITIONS = 4096
UPDATE_LOGITS = 2**26
"""Most positions (prompts and completions, padding included), and most positions times vocabulary, in one forward and
backward pass: they bound the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Part of a batch that is computed at once."""

    prompts: Prompts
    completions: Completions
    advantages: Tensor
    mask: Tensor
    weights: Tensor
    old_logps: Tensor | None
    """None: those of this pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Per-token results of one chunk, kept for the metrics."""

    loss: float
    entropy: Tensor
    ratio: Tensor
    kl: Tensor | None
    chunk: Chunk


class LmPolicy:
    """A language model from a Hugging Face folder of Llama architecture (`emulator.policy.Policy`).

    With `lora` an adapter is trained, drawn from `seed`. Sets the process's number of torch threads. Raises ValueError
    or OSError if the folder can't be read.
    """

    def __init__(self, folder: Path, grpo: Grpo, *, lora: Lora | None = None, seed: int = 0, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        keep_freed_memory()
        self._folder, self._grpo = folder, grpo
        self._tokens = Tokens(folder)
        self.model = load_model(folder)
        self._reference = copy.deepcopy(self.model).requires_grad_(False) if grpo.beta else None
        self._adapter = Adapter(self.model, lora, seed) if lora else None
        self._optimizer = AdamW(
            self._trained(),
            betas=(grpo.adam_beta1, grpo.adam_beta2),
            eps=grpo.adam_epsilon,
            weight_decay=grpo.weight_decay,
        )

    def _trained(self) -> dict[str, nn.Parameter]:
        return self._adapter.parameters if self._adapter else dict(self.model.named_parameters())

    # Text in, text out

    def prompt(self, example: Example) -> str:
        """The example's text as it stands, or its messages through the folder's chat template."""
        return self._tokens.prompt(example)

    def sample(self, examples: Sequence[Example], sampling: Sampling, seeds: Sequence[Sequence[int]]) -> Drawn:
        """One completion per seed. A prompt that leaves too little of the model's context loses its beginning."""
        room = self.model.config.context - sampling.max_completion_length
        prompts = [self._tokens.encode(example, room) for example in examples]
        drawn = generate(self.model, prompts, seeds, sampling, self._tokens.end)
        return Drawn(
            prompts=prompts,
            tokens=[tokens for group in drawn for tokens in group],
            owner=[i for i, group in enumerate(drawn) for _ in group],
            temperature=sampling.temperature or 1.0,
            completions=[[self._tokens.completion(tokens) for tokens in group] for group in drawn],
        )

    # Learning

    def update(
        self, sampled: Sampled, advantages: Sequence[float], step: int, rows: Sequence[int] | None = None
    ) -> Mapping[str, float]:
        """One AdamW step on the completions `rows` of what was drawn (None: all, in order); see `emulator.lm.loss`.

        Where a batch makes several steps, all of them clip against the log-probabilities before the first of them.
        """
        whole = cast(Drawn, sampled)
        if whole.old_logps is None and self._grpo.generate_every * self._grpo.num_iterations > 1:
            whole.old_logps = self._log_probabilities(whole)
        order = range(len(whole.tokens)) if rows is None else rows
        mine = sorted(order)
        drawn, used = whole.part(mine), [advantages[row] for row in mine]
        learning_rate = self._grpo.learning_rate * learning_rate_factor(self._grpo, step)
        self.model.zero_grad()
        tokens = self._counted(whole) / self._grpo.generate_every
        chunks = self._chunks(drawn, used, tokens, self._passes(order))
        totals = [self._backward(chunk, drawn.temperature) for chunk in chunks]
        norm = self._descend(learning_rate)
        return _metrics(totals, self._grpo) | {"grad_norm": norm, "learning_rate": learning_rate}

    def _descend(self, learning_rate: float) -> float:
        """The optimizer's step; the norm of the gradient before it is cut."""
        if self._adapter:
            self._adapter.collect_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self._trained().values(), self._grpo.max_grad_norm)
        self._optimizer.step(learning_rate)
        if self._adapter:
            self._adapter.merge()
        return norm.item()

    def _counts(self, tokens: Sequence[int]) -> bool:
        """Whether a completion is in the loss."""
        return not self._grpo.mask_truncated_completions or tokens[-1] in self._tokens.end

    def _counted(self, drawn: Drawn) -> int:
        """Tokens in the loss."""
        return sum(len(tokens) for tokens in drawn.tokens if self._counts(tokens))

    def _passes(self, order: Sequence[int]) -> Tensor:
        """TRL's forward pass of each row, of the rows ascending, whose completions bnpo averages over. [N]"""
        size = micro_batch(len(order), self._grpo.micro_batch)
        return torch.tensor(sorted(range(len(order)), key=order.__getitem__)) // size

    def _chunks(
        self, drawn: Drawn, advantages: Sequence[float], tokens: float, passes: Tensor | None = None
    ) -> Iterator[Chunk]:
        """The batch in parts that are computed at once. `tokens`: what dapo and cispo divide by."""
        everything = Completions.pad(drawn.tokens, drawn.owner)
        mask = everything.real.clone()
        mask[[i for i, row in enumerate(drawn.tokens) if not self._counts(row)]] = 0.0
        weights = row_weights(mask, self._grpo, tokens, passes)
        for rows in _rows_of_chunks(drawn, min(UPDATE_POSITIONS, UPDATE_LOGITS // self.model.config.vocab_size)):
            first, last = drawn.owner[rows.start], drawn.owner[rows.stop - 1]
            completions = Completions.pad(drawn.tokens[rows], [owner - first for owner in drawn.owner[rows]])
            width = completions.ids.shape[1]
            yield Chunk(
                prompts=Prompts.pad(drawn.prompts[first : last + 1]),
                completions=completions,
                advantages=torch.tensor(advantages[rows], dtype=torch.float32),
                mask=mask[rows, :width],
                weights=weights[rows],
                old_logps=None if drawn.old_logps is None else drawn.old_logps[rows, :width],
            )

    def _backward(self, chunk: Chunk, temperature: float) -> Totals:
        logps, entropy = _log_probabilities(self.model, chunk, temperature)
        stats = TokenStats(
            logps=logps,
            old_logps=logps.detach() if chunk.old_logps is None else chunk.old_logps,
            reference_logps=None if self._reference is None else _frozen(self._reference, chunk, temperature),
            mask=chunk.mask,
        )
        terms = token_losses(stats, chunk.advantages, self._grpo)
        loss = (terms.loss * chunk.mask * chunk.weights).sum()
        loss.backward()
        kl = None if terms.kl is None else terms.kl.detach()
        return Totals(loss=loss.item(), entropy=entropy, ratio=terms.ratio.detach(), kl=kl, chunk=chunk)

    def _log_probabilities(self, drawn: Drawn) -> Tensor:
        """Of every token under the policy as it is. [N, T]"""
        chunks = self._chunks(drawn, [0.0] * len(drawn.tokens), 1.0)
        width = max(map(len, drawn.tokens))
        return _stack([_frozen(self.model, chunk, drawn.temperature) for chunk in chunks], width)

    # State

    def save(self, folder: Path) -> None:
        """A model folder that transformers opens, or an adapter that PEFT does; `optimizer.safetensors` beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if (self._folder / name).exists() and not (self._adapter and name == "config.json"):
                shutil.copyfile(self._folder / name, folder / name)
        if self._adapter:
            self._adapter.save(folder, self._folder)
        else:
            save_weights(self.model, folder / "model.safetensors")
        save_file(self._optimizer.tensors(), folder / OPTIMIZER)

    def load(self, folder: Path) -> None:
        """Weights, and the optimizer's state where the folder has one. The reference stays the base model."""
        if self._adapter:
            self._adapter.load(folder)
        else:
            self.model.load_state_dict(load_model(folder).state_dict())
        self._optimizer.load(load_file(folder / OPTIMIZER) if (folder / OPTIMIZER).exists() else {})

    def load_drawn(self, folder: Path) -> Drawn:
        return Drawn.load(folder)


@torch.no_grad()
def _frozen(model: Llama, chunk: Chunk, temperature: float) -> Tensor:
    """Log-probabilities under a model, without gradient. [rows, T]"""
    return _log_probabilities(model, chunk, temperature)[0]


def _log_probabilities(model: Llama, chunk: Chunk, temperature: float) -> tuple[Tensor, Tensor]:
    """Of every token, and the entropy of what it was chosen from. Both [rows, T]"""
    hidden = completion_hidden(model, chunk.prompts, chunk.completions)
    return chosen(hidden, model.head, chunk.completions.ids, temperature)


def learning_rate_factor(grpo: Grpo, step: int) -> float:
    """Share of the peak learning rate at the 1-based `step`, as transformers' `get_scheduler` gives it."""
    done, warmup = step - 1, math.ceil(grpo.steps * grpo.warmup_ratio)
    if grpo.lr_scheduler_type == "constant":
        return 1.0
    if done < warmup:
        return done / warmup
    if grpo.lr_scheduler_type == "constant_with_warmup":
        return 1.0
    progress = (done - warmup) / max(1, grpo.steps - warmup)
    if grpo.lr_scheduler_type == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
    return max(0.0, 1.0 - progress)


def _rows_of_chunks(drawn: Drawn, limit: int) -> Iterator[slice[int, int, None]]:
    """Rows in order, as many at a time as fit into `limit` positions; a prompt counts once in each chunk it is in."""
    prompt, completion = max(map(len, drawn.prompts)), max(map(len, drawn.tokens))
    start, cost = 0, prompt + completion
    for row in range(1, len(drawn.tokens)):
        more = completion + (prompt if drawn.owner[row] != drawn.owner[row - 1] else 0)
        if cost + more > limit:
            yield slice(start, row)
            start, cost = row, prompt
            more = completion
        cost += more
    yield slice(start, len(drawn.tokens))


def _metrics(totals: Sequence[Totals], grpo: Grpo) -> dict[str, float]:
    """The step's metrics over all chunks, under TRL's names."""
    width = max(total.chunk.mask.shape[1] for total in totals)
    mask = _stack([total.chunk.mask for total in totals], width)
    advantages = torch.cat([total.chunk.advantages for total in totals])
    ratio = _stack([total.ratio for total in totals], width)
    metrics = {
        "loss": math.fsum(total.loss for total in totals),
        "entropy": masked_mean(_stack([total.entropy for total in totals], width), mask),
    }
    if all(total.kl is not None for total in totals):
        metrics["kl"] = masked_mean(_stack([total.kl for total in totals if total.kl is not None], width), mask)
    return metrics | clip_metrics(ratio, advantages, mask, grpo)


def _stack(parts: Sequence[Tensor], width: int) -> Tensor:
    """The chunks' tensors as one, padded with 0 to equal width; one value a row stays one value a row."""
    if all(part.shape[1] == 1 for part in parts):
        return torch.cat(list(parts))
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])
