"""Declarative reinforcement fine-tuning with GRPO.

The verbs as functions, and the types they take and give. Everything is imported when it is first used: `import runner`
costs a few milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.api import (
        EnvironmentUnfit,
        Progress,
        RunHandle,
        cancel,
        emulate,
        open_run,
        rerun,
        resume,
        run,
        runs,
        submit,
        update_reward,
        validate,
    )
    from runner.draft import job, reward
    from runner.journal.states import Reason, State
    from runner.queue.jobs import Checked, load_job
    from runner.rewards.capture import CaptureError
    from runner.spec.errors import Finding, JobError
    from runner.spec.load import Loaded
    from runner.spec.model import (
        Checkpoints,
        Dataset,
        Emulator,
        Evaluation,
        Expect,
        Grpo,
        JobSpec,
        Limits,
        Lora,
        Reward,
        Stop,
    )
    from runner.store.errors import StoreError

_HOME_OF = {
    "runner.api": (
        "EnvironmentUnfit", "Progress", "RunHandle", "cancel", "emulate", "open_run", "rerun", "resume", "run",
        "runs", "submit", "update_reward", "validate",
    ),
    "runner.draft": ("job", "reward"),
    "runner.journal.states": ("Reason", "State"),
    "runner.queue.jobs": ("Checked", "load_job"),
    "runner.rewards.capture": ("CaptureError",),
    "runner.spec.errors": ("Finding", "JobError"),
    "runner.spec.load": ("Loaded",),
    "runner.spec.model": (
        "Checkpoints", "Dataset", "Emulator", "Evaluation", "Expect", "Grpo", "JobSpec", "Limits", "Lora", "Reward",
        "Stop",
    ),
    "runner.store.errors": ("StoreError",),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME_OF.items() for name in names}

__all__ = [
    "CaptureError",
    "Checked",
    "Checkpoints",
    "Dataset",
    "Emulator",
    "EnvironmentUnfit",
    "Evaluation",
    "Expect",
    "Finding",
    "Grpo",
    "JobError",
    "JobSpec",
    "Limits",
    "Loaded",
    "Lora",
    "Progress",
    "Reason",
    "Reward",
    "RunHandle",
    "State",
    "Stop",
    "StoreError",
    "cancel",
    "emulate",
    "job",
    "load_job",
    "open_run",
    "rerun",
    "resume",
    "reward",
    "run",
    "runs",
    "submit",
    "update_reward",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
