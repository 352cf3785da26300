"""What a job comes to: its revision, its form on a backend, and how two jobs differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

from runner.journal.events import Difference
from runner.spec.model import EMULATOR_OVERRIDES, LIVE_FIELDS, JobSpec, dump

EMULATOR_CAPS = {"steps": 50, "prompts_per_step": 8, "num_generations": 8, "max_completion_length": 64}
"""Largest sizes the emulator takes from `grpo:`: a CPU does these in seconds. `emulator:` may ask for more."""

EMULATOR_LEARNING_RATE = 5e-4
"""For the tiny language model where `emulator:` gives none: a large model's 1e-6 would show nothing in 50 steps."""


def canonical(job: JobSpec) -> bytes:
    """The job as bytes that are equal for equal jobs: what differs from the defaults, the live fields left out.

    Defaults stay out so that a release which adds a field, or changes a default, gives no job another revision: an
    upgrade of the runner must not start every job in the folder again. What a run was made with is in its spec.
    """
    plain = job.model_dump(mode="json", by_alias=True, exclude=set(LIVE_FIELDS), exclude_defaults=True)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def revision(job: JobSpec) -> str:
    """Identity of what a run executes: sha256 of `canonical`, in hex. People are shown the first 12 digits."""
    return hashlib.sha256(canonical(job)).hexdigest()


def for_backend(job: JobSpec, backend: Literal["emulator", "trl"] | str) -> tuple[JobSpec, list[Difference]]:
    """The job as that backend runs it, and what was changed without being asked for. For TRL: the job as it stands."""
    if backend != "emulator":
        return job, []
    asked = {name: value for name in EMULATOR_OVERRIDES if (value := getattr(job.emulator, name)) is not None}
    capped = _caps(job, asked)
    notes = [_capped(job, name, value) for name, value in capped.items()]
    if job.stop is not None:
        detail = "judges real runs; the emulated run goes on to its last step"
        notes.append(Difference(field="stop", asked=job.stop.metric, kind="not applicable", detail=detail))
    return _overridden(job, asked | capped).model_copy(update={"stop": None}), notes


def _caps(job: JobSpec, asked: Mapping[str, Any]) -> dict[str, Any]:
    caps = {name: cap for name, cap in EMULATOR_CAPS.items() if name not in asked and getattr(job.grpo, name) > cap}
    if job.emulator.policy == "replay":
        caps.pop("max_completion_length", None)  # recorded texts are not cut
    slow = job.emulator.policy == "lm" and job.grpo.learning_rate < EMULATOR_LEARNING_RATE
    return caps | ({"learning_rate": EMULATOR_LEARNING_RATE} if slow and "learning_rate" not in asked else {})


def _capped(job: JobSpec, name: str, value: float) -> Difference:
    asked = f"{getattr(job.grpo, name):g}"
    return Difference(
        field=f"grpo.{name}", asked=asked, kind="capped", detail=f"{value:g} on a CPU; `emulator.{name}` decides"
    )


def _overridden(job: JobSpec, values: Mapping[str, Any]) -> JobSpec:
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, field = EMULATOR_OVERRIDES[name]
        sections.setdefault(section, {})[field] = value
    changed = {section: getattr(job, section).model_copy(update=update) for section, update in sections.items()}
    return job.model_copy(update=changed)


def differences(old: JobSpec, new: JobSpec) -> dict[str, tuple[Any, Any]]:
    """Dotted path → (old, new) value for every field that differs; None where one of them does not have it."""
    return differing(dump(old), dump(new))


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """As `differences`, of two jobs as JSON objects."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    paths = dict.fromkeys([*before, *after])
    return {path: (before.get(path), after.get(path)) for path in paths if before.get(path) != after.get(path)}


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(cast(Mapping[str, Any], value), f"{prefix}{name}.")
        else:
            yield prefix + name, value
