"""The same job and weights through TRL on the CPU and through the emulator: the same course of learning."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import mean, stdev

import pytest
import yaml

from runner import api

pytestmark = [pytest.mark.lm, pytest.mark.trl, pytest.mark.soak]

ROOT = Path(__file__).parents[2]
SEEDS, STEPS, LAST = 5, 60, 10
GRPO = {
    "steps": STEPS,
    "prompts_per_step": 8,
    "num_generations": 8,
    "max_completion_length": 40,
    "learning_rate": 3e-4,
    "micro_batch": 64,
    "gradient_checkpointing": False,
    "vllm": False,
}


def job_file(folder: Path) -> Path:
    """Countdown, on the emulator's own weights, of equal sizes for both."""
    source = ROOT / "jobs" / "examples" / "countdown"
    target = folder / "jobs" / "countdown"
    target.mkdir(parents=True)
    for name in ("data.jsonl", "rewards.py"):
        (target / name).write_bytes((source / name).read_bytes())
    job = yaml.safe_load((source / "job.yaml").read_text())
    own = {name: GRPO[name] for name in ("steps", "prompts_per_step", "num_generations", "max_completion_length")}
    emulator = {**own, "learning_rate": GRPO["learning_rate"]}
    job |= {"model": str(ROOT / "emulator" / "weights"), "grpo": GRPO, "emulator": emulator, "evaluation": {"limit": 1}}
    for name in ("lora", "stop"):
        del job[name]
    path = target / "job.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path


def test_learning_curves_of_trl_and_the_emulator_end_alike(tmp_path: Path) -> None:
    job, ends = job_file(tmp_path), {"trl": list[float](), "emulator": list[float]()}
    for seed in range(SEEDS):
        override = [f"seed={seed}"]
        runs = {
            "trl": api.run(job, device="cpu", overrides=override, home=tmp_path),
            "emulator": api.emulate(job, overrides=override, home=tmp_path),
        }
        for name, run in runs.items():
            assert run.row.state == "succeeded", run.row.detail
            ends[name].append(mean(value for _, value in run.metrics("reward")[-LAST:]))
    error = math.sqrt(sum(stdev(values) ** 2 / SEEDS for values in ends.values()))
    assert abs(mean(ends["trl"]) - mean(ends["emulator"])) <= max(0.05, 2 * error), ends
