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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from emulator.lm.adamw import AdamW
from emulator.lm.drawn import Drawn
from emulator.lm.folder import FILES
from emulator.lm.generate import generate
from emulator.lm.learner import Learner, Lesson, metrics
from emulator.lm.lora import Adapter
from emulator.lm.model import load_model, save_weights
from emulator.lm.ops import keep_freed_memory
from emulator.lm.ranks import Ranks
from emulator.lm.tokens import Tokens
from emulator.policy import Sampled, Sampling
from runner.grpo.order import micro_batch
from runner.grpo.types import Example
from runner.spec.model import Grpo, Lora

OPTIMIZER = "optimizer.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What a rank is to generate."""

    prompts: Sequence[Sequence[int]]
    seeds: Sequence[Sequence[int]]
    sampling: Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Learn:
    """What a rank is to compute the gradient of."""

    lesson: Lesson
    part: slice[int, int, None]


class LmPolicy:
    """A language model from a Hugging Face folder of Llama architecture (`emulator.policy.Policy`).

    With `lora` an adapter is trained, drawn from `seed`. `threads` above 1: so many processes, forked from this one,
    take a part of every batch each. Raises ValueError or OSError if the folder can't be read.
    """

    def __init__(self, folder: Path, grpo: Grpo, *, lora: Lora | None = None, seed: int = 0, threads: int = 1) -> None:
        torch.set_num_threads(1)
        keep_freed_memory()
        self._folder, self._grpo = folder, grpo
        self._tokens = Tokens(folder)
        self.model = load_model(folder)
        reference = copy.deepcopy(self.model).requires_grad_(False) if grpo.beta else None
        self._adapter = Adapter(self.model, lora, seed) if lora else None
        self._learner = Learner(self.model, reference, grpo, self._tokens.end)
        self._ranks = Ranks(list(self.model.parameters()), threads, self._work)
        self._optimizer = AdamW(
            self._trained(),
            betas=(grpo.adam_beta1, grpo.adam_beta2),
            eps=grpo.adam_epsilon,
            weight_decay=grpo.weight_decay,
        )

    def _work(self, task: Draw | Learn) -> Any:
        """One rank's part."""
        if isinstance(task, Draw):
            return generate(self.model, task.prompts, task.seeds, task.sampling, self._tokens.end)
        self.model.zero_grad()
        return self._learner.backward(task.lesson, task.part)

    def _together(self, tasks: Sequence[Draw | Learn]) -> list[Any]:
        """What all ranks have come to, a task each, one behind the other."""
        self._ranks.tell(tasks[1:])
        mine = self._work(tasks[0])
        return [item for results in (mine, *self._ranks.hear()) for item in results]

    def close(self) -> None:
        """Ends the processes it has started."""
        self._ranks.close()

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
        parts = _parts(len(prompts), len(self._ranks))
        drawn = self._together([Draw(prompts=prompts[part], seeds=seeds[part], sampling=sampling) for part in parts])
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
            whole.old_logps = self._learner.log_probabilities(whole)
        order = range(len(whole.tokens)) if rows is None else rows
        mine = sorted(order)
        lesson = Lesson(
            drawn=whole.part(mine),
            advantages=[advantages[row] for row in mine],
            tokens=self._learner.counted(whole) / self._grpo.generate_every,
            passes=self._passes(order),
        )
        parts = _parts(len(mine), len(self._ranks))
        totals = self._together([Learn(lesson=lesson, part=part) for part in parts])
        self._ranks.add_gradients()
        learning_rate = self._grpo.learning_rate * learning_rate_factor(self._grpo, step)
        norm = self._descend(learning_rate)
        return metrics(totals, self._grpo) | {"grad_norm": norm, "learning_rate": learning_rate}

    def _descend(self, learning_rate: float) -> float:
        """The optimizer's step; the norm of the gradient before it is cut."""
        if self._adapter:
            self._adapter.collect_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self._trained().values(), self._grpo.max_grad_norm)
        self._optimizer.step(learning_rate)
        if self._adapter:
            self._adapter.merge()
        return norm.item()

    def _passes(self, order: Sequence[int]) -> list[int]:
        """TRL's forward pass of each row, of the rows ascending, whose completions bnpo averages over. [N]"""
        size = micro_batch(len(order), self._grpo.micro_batch)
        return [place // size for place in sorted(range(len(order)), key=order.__getitem__)]

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


def _parts(size: int, ranks: int) -> list[slice[int, int, None]]:
    """Equal parts, as nearly as can be, of so many things."""
    return [slice(size * rank // ranks, size * (rank + 1) // ranks) for rank in range(ranks)]


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
