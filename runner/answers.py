"""What a run's model answers, beside what the model it began from answers: `runner prompt`.

Nothing is recorded. A typed text becomes a prompt as the job makes them (its system message, chat template and
prefilled turn); an example of the dataset is the run's own, with its columns.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runner.api import RunHandle, checkpoint_of, open_run
from runner.backends import load_backend
from runner.data.load import load_examples, with_turns
from runner.grpo.inputs import Inputs, read_inputs
from runner.grpo.types import Completion, Example
from runner.spec.errors import Finding, JobError
from runner.spec.model import JobSpec
from runner.store.errors import StoreError


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Completions of one prompt."""

    example: Example
    """As the model is asked; its id is −1 for a typed prompt."""
    base: Sequence[Completion]
    """From the model that the run began with; empty where it was not asked."""
    tuned: Sequence[Completion]
    """From the checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    run: str
    step: int
    model: str
    """What the run began with."""
    temperature: float
    max_completion_length: int
    seed: int
    answers: Sequence[Answer]


def answer(
    run: str,
    prompts: Sequence[str] = (),
    *,
    examples: Sequence[int] = (),
    n: int = 1,
    temperature: float | None = None,
    max_completion_length: int | None = None,
    seed: int | None = None,
    as_it_stands: bool = False,
    base: bool = True,
    home: str | Path | None = None,
) -> Answers:
    """n completions of each prompt and of each example (by id) of the run's dataset, from a checkpoint and the base.

    `run`: a run, or `run@step`; without a step its last checkpoint. What is not given is the job's: `temperature` (0 is
    greedy), `max_completion_length` in tokens, `seed`. `as_it_stands`: the texts are the exact prompts, without
    chat template. Raises StoreError (no such run, checkpoint or example), JobError.
    """
    name, _, step = run.partition("@")
    handle = open_run(name, home=home)
    saved = checkpoint_of(handle, _step(run, step) if step else None)
    inputs = read_inputs(handle.home.run(handle.id))
    job = _asked(inputs.job, temperature=temperature, max_completion_length=max_completion_length, seed=seed)
    asked = [*_chosen(handle, inputs, examples), *(_typed(job, text, as_it_stands) for text in prompts)]
    if inputs.device == "cpu":
        os.environ["RUNNER_DEVICE"] = "cpu"
    backend = load_backend(inputs.backend)
    tuned = backend.generate(job, saved.path, asked, n)
    before = backend.generate(job, None, asked, n) if base else [list[Completion]() for _ in asked]
    return Answers(
        run=handle.id,
        step=saved.step,
        model=_model(inputs),
        temperature=job.grpo.temperature,
        max_completion_length=job.grpo.max_completion_length,
        seed=job.seed,
        answers=[
            Answer(example=example, base=old, tuned=new) for example, old, new in zip(asked, before, tuned, strict=True)
        ],
    )


def _step(run: str, step: str) -> int | Literal["best"]:
    if step == "best":
        return "best"
    if not step.isdecimal():
        raise StoreError(f"{run}: behind the @ stands a checkpoint's step, as {run.partition('@')[0]}@50, or `best`")
    return int(step)


def _asked(job: JobSpec, *, seed: int | None, **grpo: float | None) -> JobSpec:
    """Not validated again: a temperature of 0, greedy, is for answers only."""
    given = {name: value for name, value in grpo.items() if value is not None}
    return job.model_copy(
        update={"grpo": job.grpo.model_copy(update=given), "seed": job.seed if seed is None else seed}
    )


def _typed(job: JobSpec, text: str, as_it_stands: bool) -> Example:
    return Example(id=-1, prompt=text if as_it_stands else with_turns(job.dataset, text), columns={})


def _chosen(handle: RunHandle, inputs: Inputs, ids: Sequence[int]) -> list[Example]:
    if not ids:
        return []
    data = load_examples(inputs.job, inputs.data_folder)
    found: Mapping[int, Example] = {example.id: example for example in (*data.train, *data.eval)}
    for id in ids:
        if id not in found:
            message = f"{handle.id}: its dataset has no example {id}; it has {min(found)} to {max(found)}"
            raise JobError([Finding(code="no-example", message=message)])
    return [found[id] for id in ids]


def _model(inputs: Inputs) -> str:
    if not inputs.emulated:
        return inputs.job.model
    if inputs.job.emulator.policy == "replay":
        return "recorded completions, all equally likely"
    return inputs.job.emulator.model or "the emulator's own model"
