"""The trainer process: `python -m runner.backends RUN_FOLDER ATTEMPT`, started by the supervisor.

Reads the run folder, starts the reward workers before anything heavy is imported, trains, and leaves its last word in
the journal. The one place where an exception becomes a reason.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import traceback
from functools import partial
from pathlib import Path

from runner.backends import load_backend
from runner.data.load import load_examples
from runner.grpo.checkpoint import last_step
from runner.grpo.guards import LiveLimits, RewardFailure
from runner.grpo.inputs import Inputs, read_inputs, reward_settings
from runner.grpo.reload import Past, Reload
from runner.grpo.run import Run
from runner.grpo.types import Reason
from runner.journal import events
from runner.journal.folder import RunFolder
from runner.journal.log import Journal
from runner.journal.states import exit_code
from runner.rewards.guarantees import check, unmet
from runner.rewards.host import RewardHost, RewardLoadError
from runner.rewards.sandbox import Settings
from runner.rewards.versions import Shelf
from runner.spec.errors import Finding, JobError

RESERVE_BYTES = 8192
"""Taken from the disk at the start, so that a full one has room for the last word and the exit record."""

ENGINE_ERRORS = ("EngineDeadError", "EngineGenerateError", "AcceleratorError")
"""vLLM's and torch's, by name: neither is imported here."""
GPU_ERRORS = ("CUDA error", "NCCL error", "cuBLAS error", "CUBLAS_STATUS", "Engine core initialization failed")
ENGINE_HAS_NO_ROOM = (
    "No available memory for the cache blocks",
    "is less than desired GPU memory utilization",
    "KV cache is needed, which is larger than the available KV cache memory",
)


class Unfit(Exception):
    """The machine can't run this job."""


def main() -> int:
    return attend(RunFolder(Path(sys.argv[1])), int(sys.argv[2]))


def attend(folder: RunFolder, attempt: int) -> int:
    """Trains one attempt of the run to its end; gives the exit code."""
    stop = _stop_flag()
    journal = Journal(folder.journal(attempt))
    with contextlib.suppress(OSError):
        folder.reserve.write_bytes(os.urandom(RESERVE_BYTES))
    last = Last()
    try:
        reason, detail = _train(folder, attempt, journal, stop, last)
    except Exception as error:
        _log_traceback()
        reason, detail = _classify(error)
    folder.reserve.unlink(missing_ok=True)
    try:
        journal.append(events.AttemptEnded(step=last.step, reason=reason, detail=detail))
    except OSError:
        _log_traceback()
    return exit_code(reason)


def _log_traceback() -> None:
    """Into the trainer's log, which a full disk may have no room for; the last word may still fit."""
    with contextlib.suppress(OSError):
        traceback.print_exc()


def _refuse_unfit(findings: list[Finding]) -> None:
    """Raises Unfit for what is about this machine, JobError for what is about the job."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if any(finding.code == "environment" for finding in errors):
        raise Unfit("\n".join(f"{finding.message} {finding.hint}".strip() for finding in errors))
    if errors:
        raise JobError(errors)


def _refuse_changed(sha256: str, inputs: Inputs) -> None:
    if sha256 != inputs.data_sha256:
        raise JobError(
            [
                Finding(
                    code="data-changed",
                    message=f"{inputs.job.dataset.path} has changed since the run was submitted.",
                    hint="Put the old file back to resume, or `runner rerun` the job on the new one.",
                )
            ]
        )


class Last:
    """The last finished step, for the last word."""

    step = 0


def _train(folder: RunFolder, attempt: int, journal: Journal, stop: list[int], last: Last) -> tuple[Reason, str]:
    inputs = read_inputs(folder)
    os.environ["RUNNER_DEVICE"] = inputs.device
    guarantees = _check_sandbox(inputs)
    open_host = partial(
        RewardHost, seed=inputs.job.seed, steps=inputs.job.grpo.steps, settings=_settings(inputs, folder)
    )
    step = last_step(folder.checkpoints)
    with Reload(Shelf(folder.rewards), Past.read(folder), step, journal, open_host) as rewards:
        data = load_examples(inputs.job, inputs.data_folder)
        _refuse_changed(data.sha256, inputs)
        run = Run(
            job=inputs.job,
            folder=folder.path,
            train=data.train,
            held_out=data.eval,
            scorer=rewards.active,
            switch=rewards,
            journal=journal,
            stop_requested=lambda: bool(stop),
            emulated=inputs.emulated,
            limits=LiveLimits(folder.live_json, inputs.job.limits),
        )
        backend = load_backend(inputs.backend)
        found = backend.differences(inputs.job, data.train, run.held_out)
        _announce(run, rewards, inputs, [*inputs.differences, *found], attempt, journal)
        journal.append(events.SandboxChecked(guarantees=guarantees))
        if lacking := [f"{row.name} ({row.why})" for row in guarantees if row.state == "not enforced"]:
            run.alert("sandbox", f"not enforced on this machine for reward code: {', '.join(lacking)}")
        _refuse_unfit(backend.check(inputs.job, data.train, run.held_out))
        _refuse_unfit(backend.outlook(inputs.job, data.train).findings)
        try:
            backend.train(inputs.job, run)
        finally:
            last.step = run.step
        return run.finish()


def _check_sandbox(inputs: Inputs) -> list[events.GuaranteeRow]:
    """What this machine keeps of the job's sandbox. Raises Unfit when that is less than the job requires."""
    guarantees = check(inputs.job.sandbox)
    if lacking := unmet(inputs.job.sandbox, guarantees):
        raise Unfit("\n".join(lacking))
    return guarantees


def _settings(inputs: Inputs, folder: RunFolder) -> Settings:
    try:
        return reward_settings(inputs, folder.rewards)
    except JobError as error:
        raise Unfit(str(error)) from None


def _announce(
    run: Run, rewards: Reload, inputs: Inputs, differences: list[events.Difference], attempt: int, journal: Journal
) -> None:
    resumed = run.step if run.resume_from else None
    journal.append(
        events.AttemptStarted(
            attempt=attempt, resumed_step=resumed, backend=inputs.backend, emulated=inputs.emulated, pid=os.getpid()
        )
    )
    rewards.begin(resumed)
    if resumed is None and differences:
        journal.append(events.DifferencesFound(items=differences))


def _classify(error: Exception) -> tuple[Reason, str]:
    """The reason of an ending by exception, and what a person is told."""
    text = str(error) or type(error).__name__
    match error:
        case RewardFailure() | RewardLoadError():
            return Reason.REWARD_ERROR, text
        case Unfit():
            return Reason.ENVIRONMENT, text
        case JobError():
            return Reason.INVALID, text
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return Reason.DISK_FULL, text
        case MemoryError():
            return Reason.OUT_OF_MEMORY, text
        case _ if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
            return Reason.OUT_OF_MEMORY, text
        case _ if type(error).__name__ == "RankLost":  # the emulator's
            return Reason.LOST, text
        case _ if way_out := _too_small_for_the_engine(text):
            return Reason.ENVIRONMENT, f"{text} {way_out}"
        case _ if _is_of_the_engine(error):
            return Reason.ENGINE_FAILED, f"{type(error).__name__}: {text}"
        case _:
            return Reason.INTERNAL, f"{type(error).__name__}: {text}"


def _is_of_the_engine(error: Exception) -> bool:
    """Whether vLLM, or the GPU under it or the trainer, broke down: a new process may go on."""
    if isinstance(error, JobError | Unfit):
        return False
    return type(error).__name__ in ENGINE_ERRORS or any(text in str(error) for text in GPU_ERRORS)


def _too_small_for_the_engine(text: str) -> str:
    """The way out, where vLLM has found too little memory for itself; else nothing."""
    if not any(said in text for said in ENGINE_HAS_NO_ROOM):
        return ""
    return "Raise grpo.vllm_gpu_memory_utilization, or lower grpo.vllm_max_model_length."


def _stop_flag() -> list[int]:
    """Fills when a stop is asked for; the run looks at it after each step."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, frame: asked.append(signum))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # held back while a warm process forked us
    return asked


if __name__ == "__main__":
    sys.exit(main())
