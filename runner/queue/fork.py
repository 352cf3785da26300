"""What a job must have in common with a run to go on from its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.spec.model import JobSpec
from runner.store.errors import StoreError

SHAPE = (
    *(f"grpo.{name}" for name in ("prompts_per_step", "num_generations", "generate_every", "num_iterations")),
    *("lora", "lora.rank", "lora.target_modules"),
)
"""Fields that say where in its batch a checkpoint is and what weights it holds."""
WHOSE = {True: ("emulator.policy", "emulator.model"), False: ("model",)}
"""Those that say of which model; for emulated runs, for real ones."""


def refuse_other_shape(run_id: str, trained: Mapping[str, Any], job: JobSpec, emulated: bool) -> None:
    """Raises StoreError when no checkpoint of the run, `trained` as its recorded job says, is one that `job` could go
    on from."""
    asked = job.model_dump(mode="json")
    for name in (*WHOSE[emulated], *SHAPE):
        was, now = _shape(trained, name), _shape(asked, name)
        if was != now:
            raise StoreError(
                f"{name} is {now}, but {run_id} was trained with {was}; its checkpoint can't go on so. "
                "Set it back, or rerun from scratch."
            )


def _shape(job: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted name; of `lora` itself only whether there is one, and nothing of what is in none."""
    section, _, field = name.partition(".")
    if not field:
        return job[name] if isinstance(job.get(name), str) else "unset" if job.get(name) is None else "set"
    inside: Mapping[str, Any] = job.get(section) or {}
    return inside.get(field) or "unset"
