"""The training loop, one for both policies: generate, score, update, report, and go on where a checkpoint left off."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emulator.faults import Faults
from emulator.policy import Policy, Sampled, Sampling
from runner.grpo.order import rows_of
from runner.grpo.run import Run
from runner.grpo.types import Completion, Example, Group, Next, Split
from runner.spec.model import Grpo, JobSpec

EVAL_BATCH = 64
"""Examples evaluated at once."""
ADVANTAGES = "advantages.json"


@dataclass(frozen=True, slots=True)
class Batch:
    """A scored generation batch, trained on in one step or several."""

    drawn: Sampled
    advantages: list[float]


class Loop:
    """Trains a policy through a run."""

    def __init__(self, policy: Policy, job: JobSpec, run: Run) -> None:
        self._policy, self._job, self._run = policy, job, run
        self._faults = Faults(job.emulator.faults, run.folder)
        self._batch: Batch | None = None
        if run.resume_from is not None:
            policy.load(run.resume_from)
            if not self._begins_batch(run.step + 1):
                self._batch = self._load_batch(run.resume_from)

    def train(self) -> None:
        """From the run's step to its end."""
        run = self._run
        following = run.begin()
        if following.evaluate:
            following = self._evaluate(following)
        while following.stop is None:
            step = run.step + 1
            following = run.report(step, self._step(step))
            if following.evaluate:
                following = self._evaluate(following)
            if following.save:
                with run.checkpoint(step) as folder:
                    self._save(folder, step)

    def _step(self, step: int) -> dict[str, float]:
        """One optimizer step, on a new batch where one is due. Gives the policy's metrics and the phases' seconds."""
        grpo, began = self._job.grpo, time.monotonic()
        figures: dict[str, float] = {}
        if self._batch is None or self._begins_batch(step):
            self._batch, figures = self._generate(step)
        updating = time.monotonic()
        batch = self._batch
        rows = None
        if grpo.generate_every > 1 or grpo.loss_type == "bnpo":
            rows = rows_of(self._job.seed, step, len(batch.advantages), grpo.generate_every, grpo.num_iterations)
        advantages = self._faults.before_update(step, batch.advantages)
        metrics = self._policy.update(batch.drawn, advantages, step, rows)
        ended = time.monotonic()
        if "time/tokens" in figures:
            figures["time/tokens_per_second"] = figures.pop("time/tokens") / (ended - began)
        return {**metrics, **figures, "time/train": ended - updating, "step_time": ended - began}

    def _generate(self, step: int) -> tuple[Batch, dict[str, float]]:
        run, grpo, began = self._run, self._job.grpo, time.monotonic()
        examples = run.examples(step)
        drawn = self._policy.sample(examples, sampling(grpo), run.draw_seeds(examples, grpo.num_generations, step=step))
        generated = time.monotonic()
        self._faults.before_scoring(step)
        scored = run.score(groups(self._policy, examples, drawn.completions), step=step)
        tokens = sum(completion.n_tokens for group in drawn.completions for completion in group)
        return Batch(drawn, scored.advantages), {"time/generate": generated - began, "time/tokens": float(tokens)}

    def _evaluate(self, before: Next) -> Next:
        """Tries the held-out examples; the evaluation's `Next`, with the save that was due before it."""
        run, job = self._run, self._job
        settings = sampling(job.grpo, temperature=job.evaluation.temperature)
        split: Split = "eval"
        for start in range(0, len(run.held_out), EVAL_BATCH):
            examples = run.held_out[start : start + EVAL_BATCH]
            seeds = run.draw_seeds(examples, job.evaluation.num_generations, step=run.step, split=split)
            drawn = self._policy.sample(examples, settings, seeds)
            run.score(groups(self._policy, examples, drawn.completions), step=run.step, split=split)
        after = run.report(run.step, {}, split=split)
        return Next(evaluate=False, save=before.save or after.save, stop=after.stop)

    def _begins_batch(self, step: int) -> bool:
        return (step - 1) % self._run.steps_per_batch == 0

    def _save(self, folder: Path, step: int) -> None:
        """The policy; and the batch, when the next step goes on with it: the policy that drew it is gone."""
        self._policy.save(folder)
        if self._batch is not None and not self._begins_batch(step + 1):
            self._batch.drawn.save(folder)
            (folder / ADVANTAGES).write_text(json.dumps(self._batch.advantages))

    def _load_batch(self, folder: Path) -> Batch:
        return Batch(self._policy.load_drawn(folder), json.loads((folder / ADVANTAGES).read_text()))


def groups(policy: Policy, examples: Sequence[Example], completions: Sequence[Sequence[Completion]]) -> list[Group]:
    return [
        Group(example=example, prompt=policy.prompt(example), completions=tuple(texts))
        for example, texts in zip(examples, completions, strict=True)
    ]


def sampling(grpo: Grpo, temperature: float | None = None) -> Sampling:
    return Sampling(
        max_completion_length=grpo.max_completion_length,
        temperature=grpo.temperature if temperature is None else temperature,
        top_p=grpo.top_p,
        top_k=grpo.top_k,
        min_p=grpo.min_p,
        repetition_penalty=grpo.repetition_penalty,
    )
