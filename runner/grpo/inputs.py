"""What a trainer reads from its run folder before it starts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from runner.journal.completions import RUN
from runner.journal.events import Difference
from runner.journal.folder import RunFolder, read_json
from runner.rewards.sandbox import Settings, settings_of
from runner.spec.errors import Finding, JobError
from runner.spec.model import JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    job: JobSpec
    """As the backend is to run it; paths in it are absolute."""
    backend: str
    emulated: bool
    device: str
    """`gpu` or `cpu`, for the TRL backend."""
    data_folder: Path
    data_sha256: str
    """Of the data at submission."""
    differences: list[Difference]


def read_inputs(folder: RunFolder) -> Inputs:
    """Raises JobError when the folder is not a run's or its data has changed since the submission."""
    run, spec = read_json(folder.run_json), read_json(folder.spec_json)
    if run is None or spec is None:
        raise JobError([Finding(code="run-folder", message=f"{folder.path} holds no run.json and spec.json.")])
    job_folder = Path(spec["job_folder"])
    job = absolute_paths(JobSpec.model_validate_json(json.dumps(spec["job"])), folder.source, job_folder)
    return Inputs(
        job=job,
        backend=run["backend"],
        emulated=run["emulated"],
        device=spec["device"],
        data_folder=job_folder,
        data_sha256=spec["data_sha256"],
        differences=[Difference(**item) for item in spec["differences"]],
    )


def reward_settings(inputs: Inputs, state: Path | None) -> Settings:
    """What the job grants its reward workers. `state`: where their cache and budget are kept; None: neither counts.

    Raises JobError when a secret isn't there: it was when the job was checked, on this machine or another.
    """
    return settings_of(inputs.job, inputs.data_folder, state)


def as_trained(job: JobSpec, folder: Path, runs: Path) -> JobSpec:
    """A job that is not submitted yet as its trainer would be given it: local paths absolute, and an earlier run that
    is to be replayed as its folder in `runs`. Raises JobError where that run is not there."""
    named = job.emulator.completions
    job = absolute_paths(job, folder)
    if named is None or not named.startswith(RUN):
        return job
    earlier = runs / named.removeprefix(RUN)
    if not earlier.is_dir():
        message, hint = f"there is no {named} in {runs}", "`runner ls` lists the runs"
        raise JobError([Finding(code="semantic", field="emulator.completions", message=message, hint=hint)])
    return job.model_copy(update={"emulator": job.emulator.model_copy(update={"completions": str(earlier)})})


def absolute_paths(job: JobSpec, *folders: Path) -> JobSpec:
    """The job with every local path made absolute: the first of `folders` that has it. Hub ids stay as they are."""

    def found(path: str) -> str:
        return next((str(folder / path) for folder in folders if (folder / path).exists()), path)

    emulator = job.emulator.model_copy(
        update={
            name: found(value)
            for name in ("model", "demonstrations", "completions")
            if (value := getattr(job.emulator, name)) is not None
        }
    )
    lora = job.lora and job.lora.model_copy(update={"adapter": job.lora.adapter and found(job.lora.adapter)})
    return job.model_copy(
        update={
            "model": found(job.model),
            "lora": lora,
            "dataset": job.dataset.model_copy(update={"path": found(job.dataset.path)}),
            "emulator": emulator,
        }
    )
