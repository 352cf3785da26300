"""What of a job the language model can't do, found without torch and before any weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from emulator.lm.config import LlamaConfig
from emulator.lm.tokens import Tokens
from runner.grpo.types import Example
from runner.journal.events import Difference
from runner.spec.errors import Finding, JobError
from runner.spec.model import JobSpec

NEEDED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
"""Files of a model folder."""


def model_findings(job: JobSpec, folder: Path, examples: Sequence[Example]) -> Iterator[Finding]:
    """What is wrong with the model folder, or between it and the prompts."""
    absent = [name for name in NEEDED if not (folder / name).is_file()]
    if absent:
        yield _wrong(f"{folder} is no model folder: it has no {', '.join(absent)}")
        return
    try:
        config, tokens = LlamaConfig.read(folder / "config.json"), Tokens(folder)
        for example in examples[:1]:
            tokens.prompt(example)
    except (ValueError, KeyError) as error:
        yield _wrong(f"{error}")
        return
    if room(job, config) < 1:
        message = f"{job.grpo.max_completion_length} tokens leave no room for a prompt in a context of {config.context}"
        hint = f"at most {config.context - 1}, better half of it"
        yield Finding(code="semantic", field="emulator.max_completion_length", message=message, hint=hint)


def room(job: JobSpec, config: LlamaConfig) -> int:
    """Tokens of the context that a prompt may have."""
    return config.context - job.grpo.max_completion_length


def demonstration_findings(job: JobSpec) -> Iterator[Finding]:
    if job.emulator.demonstrations is None:
        return
    from emulator.lm.examples import read_demonstrations

    try:
        read_demonstrations(job)
    except JobError as error:
        yield from error.findings


def cut_prompts(job: JobSpec, folder: Path, examples: Sequence[Example]) -> Iterator[Difference]:
    """The difference that prompts longer than the context are; nothing where `model_findings` has something to say."""
    if any(model_findings(job, folder, examples)):
        return
    config = LlamaConfig.read(folder / "config.json")
    length = room(job, config)
    if cut := Tokens(folder).too_long(examples, length):
        yield Difference(
            field="dataset.prompt",
            asked=f"{cut} prompts of more than {length} tokens",
            kind="capped",
            detail=f"they lose their beginning: the model's context is {config.context} tokens",
        )


def _wrong(message: str) -> Finding:
    hint = "use a folder of a small Llama-type model, or leave `emulator.model` out for the shipped one"
    return Finding(code="semantic", field="emulator.model", message=message, hint=hint)
