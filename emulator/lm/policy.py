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
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from emulator.lm.batch import Completions, Prompts, completion_logits
from emulator.lm.chat import render
from emulator.lm.folder import FILES, chat_template, end_tokens, read_json, special_tokens
from emulator.lm.generate import generate
from emulator.lm.loss import TokenStats, clip_metrics, log_probabilities, masked_mean, row_weights, token_losses
from emulator.lm.model import load_model, save_weights
from emulator.policy import Sampled, Sampling
from runner.grpo.types import Completion, Example
from runner.spec.model import Grpo, JobSpec

SHIPPED = Path(__file__).parents[1] / "weights"

UPDATE_POSITIONS = 16384
UPDATE_LOGITS = 2**26
"""Most positions (prompts and completions, padding included), and most positions times vocabulary, in one forward and
backward pass: they bound the memory."""


@dataclass(slots=True)
class Drawn:
    """A drawn batch, with the log-probabilities of its first update."""

    prompts: list[list[int]]
    tokens: list[list[int]]
    """Of every completion, group after group."""
    owner: list[int]
    """The prompt of each completion."""
    temperature: float
    completions: list[list[Completion]]
    old_logps: list[Tensor] = field(default_factory=list[Tensor])
    """One tensor [rows, T] for each chunk, from the first update on the batch: then the policy was still the one that
    drew it. Empty before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Part of a batch that is computed at once."""

    prompts: Prompts
    completions: Completions
    advantages: Tensor
    mask: Tensor
    weights: Tensor


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

    Sets the process's number of torch threads. Raises ValueError or OSError if the folder can't be read.
    """

    def __init__(self, folder: Path, grpo: Grpo, *, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self._folder, self._grpo = folder, grpo
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._settings = read_json(folder / "tokenizer_config.json")
        self._end = end_tokens(folder)
        self.model = load_model(folder)
        self._reference = copy.deepcopy(self.model).requires_grad_(False) if grpo.beta else None
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=grpo.learning_rate,
            betas=(grpo.adam_beta1, grpo.adam_beta2),
            eps=grpo.adam_epsilon,
            weight_decay=grpo.weight_decay,
            foreach=True,
        )

    @staticmethod
    def from_job(job: JobSpec) -> LmPolicy:
        """The job's `emulator.model`, or the shipped weights."""
        folder = Path(job.emulator.model) if job.emulator.model else SHIPPED
        return LmPolicy(folder, job.grpo, threads=job.emulator.threads)

    # Text in, text out

    def prompt(self, example: Example) -> str:
        """The example's text as it stands, or its messages through the folder's chat template."""
        if isinstance(example.prompt, str):
            return example.prompt
        template = chat_template(self._folder, self._settings)
        return render(template, example.prompt, **special_tokens(self._settings))

    def sample(self, examples: Sequence[Example], sampling: Sampling, seeds: Sequence[Sequence[int]]) -> Drawn:
        """One completion per seed. Raises ValueError for a chat prompt where the folder has no chat template."""
        prompts = [self._encode(example) for example in examples]
        drawn = generate(self.model, prompts, seeds, sampling, self._end)
        return Drawn(
            prompts=prompts,
            tokens=[tokens for group in drawn for tokens in group],
            owner=[i for i, group in enumerate(drawn) for _ in group],
            temperature=sampling.temperature or 1.0,
            completions=[[self._completion(tokens) for tokens in group] for group in drawn],
        )

    def _encode(self, example: Example) -> list[int]:
        text, begin = self.prompt(example), special_tokens(self._settings).get("bos_token")
        rendered = not isinstance(example.prompt, str) or (begin is not None and text.startswith(begin))
        ids = self._tokenizer.encode(text, add_special_tokens=not rendered).ids
        return ids or [min(self._end)]

    def _completion(self, tokens: list[int]) -> Completion:
        ended = tokens[-1] in self._end
        text = self._tokenizer.decode(tokens[:-1] if ended else tokens, skip_special_tokens=True)
        finish = "eos" if ended else "length"
        return Completion(text=text, n_tokens=len(tokens), finish=finish, ids=tuple(tokens))

    # Learning

    def update(self, sampled: Sampled, advantages: Sequence[float], step: int) -> Mapping[str, float]:
        """One AdamW step on everything drawn; see `emulator.lm.loss` for the loss.

        Further updates on the same batch (`num_iterations`) clip against the log-probabilities of the first one.
        """
        drawn = cast(Drawn, sampled)
        learning_rate = self._grpo.learning_rate * learning_rate_factor(self._grpo, step)
        self._optimizer.param_groups[0]["lr"] = learning_rate
        self._optimizer.zero_grad()
        first = not drawn.old_logps
        totals: list[Totals] = []
        for i, chunk in enumerate(self._chunks(drawn, advantages)):
            totals.append(self._backward(chunk, drawn, None if first else drawn.old_logps[i]))
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._grpo.max_grad_norm)
        self._optimizer.step()
        return _metrics(totals, self._grpo) | {"grad_norm": norm.item(), "learning_rate": learning_rate}

    def _chunks(self, drawn: Drawn, advantages: Sequence[float]) -> Iterator[Chunk]:
        everything = Completions.pad(drawn.tokens, drawn.owner)
        mask = everything.real.clone()
        if self._grpo.mask_truncated_completions:
            mask[[i for i, tokens in enumerate(drawn.tokens) if tokens[-1] not in self._end]] = 0.0
        weights = row_weights(mask, self._grpo)
        for rows in _rows_of_chunks(drawn, min(UPDATE_POSITIONS, UPDATE_LOGITS // self.model.config.vocab_size)):
            first, last = drawn.owner[rows.start], drawn.owner[rows.stop - 1]
            completions = Completions.pad(drawn.tokens[rows], [owner - first for owner in drawn.owner[rows]])
            yield Chunk(
                prompts=Prompts.pad(drawn.prompts[first : last + 1]),
                completions=completions,
                advantages=torch.tensor(advantages[rows], dtype=torch.float32),
                mask=mask[rows, : completions.ids.shape[1]],
                weights=weights[rows],
            )

    def _backward(self, chunk: Chunk, drawn: Drawn, old_logps: Tensor | None) -> Totals:
        logits = completion_logits(self.model, chunk.prompts, chunk.completions)
        logps, entropy = log_probabilities(logits, chunk.completions.ids, drawn.temperature)
        if old_logps is None:
            old_logps = logps.detach()
            drawn.old_logps.append(old_logps)
        stats = TokenStats(
            logps=logps,
            old_logps=old_logps,
            reference_logps=self._reference_logps(chunk, drawn.temperature),
            mask=chunk.mask,
        )
        terms = token_losses(stats, chunk.advantages, self._grpo)
        loss = (terms.loss * chunk.mask * chunk.weights).sum()
        loss.backward()
        kl = None if terms.kl is None else terms.kl.detach()
        return Totals(loss=loss.item(), entropy=entropy, ratio=terms.ratio.detach(), kl=kl, chunk=chunk)

    @torch.no_grad()
    def _reference_logps(self, chunk: Chunk, temperature: float) -> Tensor | None:
        if self._reference is None:
            return None
        logits = completion_logits(self._reference, chunk.prompts, chunk.completions)
        return log_probabilities(logits, chunk.completions.ids, temperature)[0]

    # State

    def save(self, folder: Path) -> None:
        """A model folder that transformers opens, and `optimizer.safetensors` beside the weights."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if (self._folder / name).exists():
                shutil.copyfile(self._folder / name, folder / name)
        save_weights(self.model, folder / "model.safetensors")
        save_file(self._optimizer_tensors(), folder / "optimizer.safetensors")

    def load(self, folder: Path) -> None:
        """Weights, and the optimizer's state where the folder has one. The reference stays the base model."""
        self.model.load_state_dict(load_model(folder).state_dict())
        self._optimizer.state.clear()
        if (folder / "optimizer.safetensors").exists():
            tensors = load_file(folder / "optimizer.safetensors")
            for name, parameter in self.model.named_parameters():
                keys = ("step", "exp_avg", "exp_avg_sq")
                if f"{name}.step" in tensors:
                    self._optimizer.state[parameter] = {key: tensors[f"{name}.{key}"] for key in keys}

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        state = self._optimizer.state
        named = [(name, state[parameter]) for name, parameter in self.model.named_parameters() if parameter in state]
        return {f"{name}.{key}": tensor for name, tensors in named for key, tensor in tensors.items()}


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
