"""What a job opens to its rewards, as the reward processes take it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner.rewards.confine import Policy
from runner.rewards.secrets import resolve
from runner.spec.model import JobSpec
from runner.spec.sandbox import Ports, Sandbox

VARIABLES = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Of a job, for its reward host."""

    sandbox: Sandbox = field(default_factory=Sandbox)
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Values by name; the rewards find them in their environment."""
    job_folder: Path = field(default_factory=Path.cwd)
    """Where relative `files` are."""
    state: Path | None = None
    """Folder for what outlives this process: the cache, and what was used of budgets. None: they end with it."""

    def policy(self, bundle: Path, scratch: Path) -> Policy:
        return policy_of(self.sandbox, bundle, scratch, self.job_folder, list(self.secrets))

    def variables(self, scratch: Path) -> dict[str, str]:
        """The whole environment of a reward: of the trainer's only what the job passes on."""
        passed = {name: os.environ[name] for name in self.sandbox.env if name in os.environ}
        return {**VARIABLES, "HOME": str(scratch), "TMPDIR": str(scratch), **passed, **self.secrets}


def settings_of(job: JobSpec, folder: Path, state: Path | None = None) -> Settings:
    """What the job, which lies in `folder`, grants its rewards. Raises JobError when a secret isn't there."""
    return Settings(sandbox=job.sandbox, secrets=resolve(job.secrets, folder), job_folder=folder, state=state)


def policy_of(sandbox: Sandbox, bundle: Path, scratch: Path, job_folder: Path, hidden: Sequence[str] = ()) -> Policy:
    """`bundle` is readable, `scratch` writable; relative `files` are the job folder's."""
    network = sandbox.network.ports if isinstance(sandbox.network, Ports) else sandbox.network
    return Policy(
        read=[str(bundle), *(str(job_folder / Path(path).expanduser()) for path in sandbox.files)],
        write=[str(scratch)],
        network=network,
        subprocess=sandbox.subprocess,
        memory=sandbox.memory_mb << 20,
        hidden=list(hidden),
    )
