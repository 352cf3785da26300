"""A job found, read and checked: with its data and its rewards, running none of its code. Needs no store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runner.data.load import Data, check_columns, load_examples
from runner.journal.events import Difference
from runner.queue.home import Home, find_home
from runner.rewards import bundle
from runner.rewards.secrets import resolve
from runner.spec.errors import Finding, JobError
from runner.spec.load import Loaded, load
from runner.spec.model import JobSpec
from runner.spec.resolve import for_backend

BackendName = Literal["trl", "emulator"]
JobLike = str | Path | Loaded


def find_job(job: JobLike, home: Home | None = None) -> Path:
    """The job file of a path (file or folder) or of a job's name in the home's `jobs/`. Raises JobError."""
    if isinstance(job, Loaded):
        return job.path
    given = Path(job)
    jobs = (home or find_home()).jobs
    for base in (given, jobs / given, jobs / "examples" / given):
        for path in (base, *(base / f"job{end}" for end in (".yaml", ".yml", ".json")), *_with_endings(base)):
            if path.is_file():
                return path
    raise JobError(
        [
            Finding(
                code="no-job",
                message=f"no job {str(job)!r}: neither a job file, nor a folder with job.yaml, nor a name in {jobs}.",
                hint="`runner init` writes one.",
                file=str(job),
            )
        ]
    )


def _with_endings(base: Path) -> Iterator[Path]:
    if base.name:  # "." has none
        yield from (base.with_name(f"{base.name}{end}") for end in (".yaml", ".yml", ".json"))


def load_job(job: JobLike, overrides: Sequence[str] = ()) -> Loaded:
    """Reads a job. `overrides` are `dotted.path=value`. Raises JobError with every finding."""
    if isinstance(job, Loaded):
        return load(job.path, (*job.overrides, *overrides)) if overrides else job
    return load(find_job(job), overrides)


def validate(job: JobLike, overrides: Sequence[str] = (), backend: BackendName = "trl") -> Checked:
    """Checks a job with its data and rewards, running none of its code. Raises JobError with every finding."""
    return check(load_job(job, overrides), backend)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A job that can be submitted: it, its data and its rewards hold together."""

    loaded: Loaded
    backend: str
    job: JobSpec
    """As the backend will run it."""
    differences: list[Difference]
    data: Data
    rewards: bundle.Bundle
    warnings: list[Finding]


def check(loaded: Loaded, backend: str) -> Checked:
    """Raises JobError with every error of the job's data, rewards, and how they fit. No code of the job is run."""
    job, differences = for_backend(loaded.job, backend)
    problems: list[Finding] = []
    data = rewards = None
    try:
        data = load_examples(job, loaded.folder)
    except JobError as error:
        problems += error.findings
    try:
        rewards = bundle.build(job.rewards, loaded.folder, job.packages)
    except JobError as error:
        problems += error.findings
    try:
        resolve(job.secrets, loaded.folder)
    except JobError as error:
        problems += error.findings
    warnings: list[Finding] = []
    if data is not None and rewards is not None:
        found = [*data.warnings, *check_columns(bundle.columns_read(rewards), data.columns)]
        problems += [finding for finding in found if finding.severity == "error"]
        warnings = [finding for finding in found if finding.severity == "warning"]
    if data is None or rewards is None or problems:
        raise JobError(loaded.locate(problems))
    return Checked(
        loaded=loaded,
        backend=backend,
        job=job,
        differences=differences,
        data=data,
        rewards=rewards,
        warnings=loaded.locate(warnings),
    )
