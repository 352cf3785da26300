"""The emulator behind the door: what it can't run, what it does differently, and which policy it trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from emulator.lm.config import LINEAR
from emulator.loop import Loop, sampling
from emulator.policy import Policy
from emulator.replay import DEFAULT_LEARNING_RATE, Recorded, ReplayPolicy, missing
from runner.grpo.order import micro_batch
from runner.grpo.outlook import Outlook
from runner.grpo.run import Run
from runner.grpo.types import Completion, Example
from runner.journal.events import Difference
from runner.spec.errors import Finding, JobError
from runner.spec.model import JobSpec

if TYPE_CHECKING:
    from emulator.lm.policy import LmPolicy

SHIPPED = Path(__file__).parent / "weights"
ADAMW = ("adamw_torch", "adamw_torch_fused")
"""Names of the one optimizer that `lm` has."""

NEEDED = ("torch", "tokenizers", "safetensors", "jinja2", "numpy")
"""Packages of `lm`, the extra `emulator`."""

NOT_IN_REPLAY = {
    "loss_type": "dapo",
    "importance_sampling_level": "token",
    "mask_truncated_completions": False,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}
"""Fields of `grpo:` about tokens, which recorded texts have none of, with the value that asks for nothing."""


class EmulatorBackend:
    """Trains the `lm` or the `replay` policy on the CPU."""

    def check(self, job: JobSpec, train: Sequence[Example] = (), held_out: Sequence[Example] = ()) -> list[Finding]:
        return list(_replay_findings(job, train) if job.emulator.policy == "replay" else _lm_findings(job, train))

    def differences(
        self, job: JobSpec, train: Sequence[Example] = (), held_out: Sequence[Example] = ()
    ) -> list[Difference]:
        if job.emulator.policy == "replay":
            return list(_replay_differences(job, held_out))
        return list(_lm_differences(job, [*train, *held_out]))

    def outlook(self, job: JobSpec, train: Sequence[Example] = ()) -> Outlook:
        """Nothing beyond `check`, which looks into the small model's files already."""
        return Outlook()

    def train(self, job: JobSpec, run: Run) -> None:
        if job.emulator.policy == "replay":
            recorded = Recorded(Path(job.emulator.completions or ""))
            run.held_out = tuple(example for example in run.held_out if recorded.of(example))
            Loop(_replay(job, recorded), job, run).train()
        else:
            with closing(_lm(job, run.folder, job.emulator.threads)) as policy:
                Loop(policy, job, run).train()

    def generate(self, job: JobSpec, at: Path | None, examples: Sequence[Example], n: int) -> list[list[Completion]]:
        """For `lm`, the model that learnt from demonstrations lies beside a run's checkpoints; elsewhere it learns."""
        policy: Policy
        if job.emulator.policy == "replay":
            policy = _replay(job, Recorded(Path(job.emulator.completions or "")))
        else:
            policy = _lm(job, at.parents[1] if at is not None and at.parent.name == "checkpoints" else None)
        if at is not None:
            policy.load(at)
        seeds = [[job.seed + i * n + k for k in range(n)] for i in range(len(examples))]
        return policy.sample(examples, sampling(job.grpo), seeds).completions

    def model_folder(self, job: JobSpec) -> Path | None:
        return None if job.emulator.policy == "replay" else base_folder(job)


# replay


def _replay(job: JobSpec, recorded: Recorded) -> ReplayPolicy:
    return ReplayPolicy(recorded, job.grpo, job.emulator.learning_rate or DEFAULT_LEARNING_RATE)


def _replay_findings(job: JobSpec, train: Sequence[Example]) -> Iterator[Finding]:
    assert job.emulator.completions is not None, "the spec asks for them"
    try:
        recorded = Recorded(Path(job.emulator.completions))
    except OSError as error:
        hint = "name a file beside the job, or `run:<id>`"
        message = f"{job.emulator.completions} can't be read: {error.strerror}"
        yield Finding(code="completions-file", field="emulator.completions", message=message, hint=hint)
        return
    except JobError as error:
        yield from error.findings
        return
    without = [example for example in train if not recorded.of(example)]
    if without:
        yield missing(without)


def _replay_differences(job: JobSpec, held_out: Sequence[Example]) -> Iterator[Difference]:
    yield _not_applicable("grpo.optim", job.grpo.optim, "replay takes plain gradient steps of a constant rate")
    if job.lora is not None:
        yield _not_applicable("lora", f"rank {job.lora.rank}", "replay has a number for each recorded text, no layers")
    for name, off in NOT_IN_REPLAY.items():
        if (asked := getattr(job.grpo, name)) != off:
            yield _not_applicable(
                f"grpo.{name}", str(asked), "recorded texts have no tokens; a completion is one action"
            )
    yield from _tracker_differences(job)
    known = _known(job, held_out)
    if known < len(held_out):
        detail = f"{len(held_out) - known} of {len(held_out)} held-out prompts have no recorded completions"
        yield _not_applicable("evaluation", "held-out prompts are tried", detail)
    if known:
        detail = "replay learns each prompt by itself, so figures of held-out prompts stay as they are"
        yield _not_applicable("evaluation", "held-out prompts are tried", detail)


def _known(job: JobSpec, held_out: Sequence[Example]) -> int:
    """Held-out prompts with recorded completions; none where `check` has something against the file."""
    try:
        recorded = Recorded(Path(job.emulator.completions or ""))
    except (OSError, JobError):
        return 0
    return sum(bool(recorded.of(example)) for example in held_out)


# lm


def base_folder(job: JobSpec) -> Path:
    """The model that `lm` begins with: the job's `emulator.model`, or the shipped weights."""
    return Path(job.emulator.model) if job.emulator.model else SHIPPED


def _lm(job: JobSpec, run_folder: Path | None, threads: int = 1) -> LmPolicy:
    from emulator.lm.policy import LmPolicy  # torch: seconds, and not needed for replay

    folder = base_folder(job)
    if job.emulator.demonstrations is not None:
        from emulator.lm.demonstrations import demonstrated

        folder = demonstrated(job, folder, run_folder)
    return LmPolicy(folder, job.grpo, lora=job.lora, seed=job.seed, threads=threads)


def _lm_findings(job: JobSpec, examples: Sequence[Example]) -> Iterator[Finding]:
    if absent := [name for name in NEEDED if find_spec(name) is None]:
        message = f"emulator.policy: lm needs {', '.join(absent)}."
        yield Finding(code="environment", message=message, hint="pip install 'grpo-runner[emulator]'")
        return
    from emulator.lm.check import demonstration_findings, model_findings

    yield from model_findings(job, base_folder(job), examples)
    yield from demonstration_findings(job)


def _tracker_differences(job: JobSpec) -> Iterator[Difference]:
    if job.report_to:
        yield _not_applicable("report_to", ", ".join(job.report_to), "emulated runs are told to no tracker")


def _lm_differences(job: JobSpec, examples: Sequence[Example]) -> Iterator[Difference]:
    grpo = job.grpo
    if grpo.optim not in ADAMW:
        yield _not_implemented("grpo.optim", grpo.optim, "AdamW, with the job's figures")
    completions = grpo.prompts_per_step * grpo.num_generations
    if grpo.loss_type == "bnpo" and grpo.micro_batch not in (None, size := micro_batch(completions, grpo.micro_batch)):
        detail = f"bnpo averages over {size} completions, which divides the {completions} of an emulated step"
        yield Difference(field="grpo.micro_batch", asked=str(grpo.micro_batch), kind="capped", detail=detail)
    if grpo.dtype == "bfloat16":
        yield _not_applicable("grpo.dtype", grpo.dtype, "float32 on a CPU")
    yield from _lora_differences(job)
    yield from _tracker_differences(job)
    if find_spec("tokenizers") is not None:
        from emulator.lm.check import cut_prompts

        yield from cut_prompts(job, base_folder(job), examples)


def _lora_differences(job: JobSpec) -> Iterator[Difference]:
    if job.lora is None:
        return
    if job.lora.adapter is not None:
        yield _not_applicable("lora.adapter", job.lora.adapter, "an adapter of the real model; a fresh one is trained")
    if job.lora.quantize is not None:
        yield _not_applicable("lora.quantize", job.lora.quantize, "float32 on a CPU")
    if job.lora.dropout:
        yield _not_implemented("lora.dropout", f"{job.lora.dropout:g}", "the adapter trains without dropout")
    named = () if job.lora.target_modules == "all-linear" else job.lora.target_modules
    if unknown := [name for name in named if name not in LINEAR]:
        detail = f"layers of another architecture; a Llama's are {', '.join(LINEAR)}"
        yield _not_applicable("lora.target_modules", ", ".join(unknown), detail)


def _not_applicable(field: str, asked: str, detail: str) -> Difference:
    return Difference(field=field, asked=asked, kind="not applicable", detail=detail)


def _not_implemented(field: str, asked: str, detail: str) -> Difference:
    return Difference(field=field, asked=asked, kind="not implemented", detail=detail)
