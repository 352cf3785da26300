"""The emulator behind the door: one loop for both policies."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from emulator.policy import Policy, Sampling
from emulator.replay import DEFAULT_LEARNING_RATE, ReplayPolicy, ReplaySettings
from runner.grpo.run import Run
from runner.grpo.types import Completion, Example, Group, Next, Split
from runner.journal.events import Difference
from runner.spec.errors import Finding
from runner.spec.model import Grpo, JobSpec

UNUSED = {"generate_every": 1, "num_iterations": 1}
"""Fields of `grpo:` that no policy honours yet, with the value that asks for nothing."""
UNUSED_BY_REPLAY = {
    "epsilon_high": None,
    "delta": None,
    "importance_sampling_level": "token",
    "mask_truncated_completions": False,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}

NO_EVALUATION = Difference(
    field="evaluation",
    asked="held-out prompts are tried",
    kind="not applicable",
    detail="replay learns each prompt by itself, so figures of held-out prompts stay as they are",
)

EVAL_BATCH = 64
"""Examples evaluated at once."""


class EmulatorBackend:
    """Trains the `lm` or the `replay` policy on the CPU."""

    def check(self, job: JobSpec) -> list[Finding]:
        if job.emulator.policy == "replay" and job.emulator.completions is None:
            return [
                Finding(
                    code="environment",
                    field="emulator.completions",
                    message="emulator.policy: replay has nothing to replay.",
                    hint="Name a file of recorded completions in emulator.completions, or use policy: lm.",
                )
            ]
        return []

    def differences(self, job: JobSpec) -> list[Difference]:
        replay = job.emulator.policy == "replay"
        unused = UNUSED | (UNUSED_BY_REPLAY if replay else {})
        return [*([NO_EVALUATION] if replay else [])] + [
            Difference(
                field=f"grpo.{name}",
                asked=str(getattr(job.grpo, name)),
                kind="not applicable" if name in UNUSED_BY_REPLAY else "not implemented",
                detail=f"the emulator trains as with {off}",
            )
            for name, off in unused.items()
            if getattr(job.grpo, name) != off
        ]

    def train(self, job: JobSpec, run: Run) -> None:
        policy = build_policy(job)
        if run.resume_from is not None:
            policy.load(run.resume_from)
        following = run.begin()
        if following.evaluate:
            following = evaluate(policy, job, run, following)
        while following.stop is None:
            step = run.step + 1
            following = run.report(step, train_step(policy, job.grpo, run, step))
            if following.evaluate:
                following = evaluate(policy, job, run, following)
            if following.save:
                with run.checkpoint(step) as folder:
                    policy.save(folder)

    def generate(self, job: JobSpec, at: Path | None, prompts: Sequence[str], n: int) -> list[list[Completion]]:
        policy = build_policy(job)
        if at is not None:
            policy.load(at)
        examples = [Example(id=i, prompt=prompt, columns={}) for i, prompt in enumerate(prompts)]
        seeds = [[job.seed + i * n + k for k in range(n)] for i in range(len(prompts))]
        return policy.sample(examples, sampling(job.grpo), seeds).completions


def train_step(policy: Policy, grpo: Grpo, run: Run, step: int) -> dict[str, float]:
    """One GRPO step: generate, score, update. Gives the policy's metrics and the phases' seconds."""
    examples = run.examples(step)
    began = time.monotonic()
    drawn = policy.sample(examples, sampling(grpo), run.draw_seeds(examples, grpo.num_generations, step=step))
    generated = time.monotonic()
    scored = run.score(groups(policy, examples, drawn.completions), step=step)
    updating = time.monotonic()
    metrics = policy.update(drawn, scored.advantages, step)
    ended = time.monotonic()
    tokens = sum(completion.n_tokens for group in drawn.completions for completion in group)
    return {
        **metrics,
        "time/generate": generated - began,
        "time/train": ended - updating,
        "time/tokens_per_second": tokens / (ended - began),
        "step_time": ended - began,
    }


def evaluate(policy: Policy, job: JobSpec, run: Run, before: Next) -> Next:
    """Tries the held-out examples; the evaluation's `Next`, with the save that was due before it."""
    settings = sampling(job.grpo, temperature=job.evaluation.temperature)
    split: Split = "eval"
    for start in range(0, len(run.held_out), EVAL_BATCH):
        examples = run.held_out[start : start + EVAL_BATCH]
        seeds = run.draw_seeds(examples, job.evaluation.num_generations, step=run.step, split=split)
        drawn = policy.sample(examples, settings, seeds)
        run.score(groups(policy, examples, drawn.completions), step=run.step, split=split)
    after = run.report(run.step, {}, split=split)
    return Next(evaluate=False, save=before.save or after.save, stop=after.stop)


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


def build_policy(job: JobSpec) -> Policy:
    """The job's policy. torch is imported for `lm` only."""
    if job.emulator.policy == "replay":
        assert job.emulator.completions is not None, "checked before"
        rate = job.emulator.learning_rate or DEFAULT_LEARNING_RATE
        settings = ReplaySettings(learning_rate=rate, beta=job.grpo.beta, temperature=job.grpo.temperature)
        return ReplayPolicy(Path(job.emulator.completions), settings)
    from emulator.lm.policy import LmPolicy  # torch: seconds, and not needed for replay

    return LmPolicy.from_job(job)
