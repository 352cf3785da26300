"""A small job on recorded completions, for tests that are about everything but learning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from runner.spec.model import EMULATOR_OVERRIDES

REWARDS = """
def right(prompt, completion, example):
    return 1.0 if completion.endswith(str(example["sum"])) else 0.0


def short(prompt, completion, example):
    print("length", len(completion))
    return {"score": 1 / (1 + len(completion)), "reason": "shorter is better"}
"""


def write_job(folder: Path, rewards: str = REWARDS, name: str = "sums", **sections: Any) -> Path:
    """Writes `<folder>/jobs/<name>/` and gives its job file. `sections` are merged into the job's."""
    job_folder = folder / "jobs" / name
    job_folder.mkdir(parents=True)
    rows = [{"a": a, "b": b, "sum": a + b} for a in range(4) for b in range(6)]
    (job_folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    completions = [[f"{row['sum']}", f"it is {row['sum'] + 1}", f"it is {row['sum']}", "no idea"] for row in rows]
    lines = [
        json.dumps({"a": row["a"], "b": row["b"], "completions": texts})
        for row, texts in zip(rows, completions, strict=True)
    ]
    (job_folder / "completions.jsonl").write_text("\n".join(lines))
    (job_folder / "rewards.py").write_text(rewards)
    job: dict[str, Any] = {
        "model": "none/none",
        "dataset": {"path": "data.jsonl", "prompt": "{a} + {b} =", "holdout": 0.25},
        "rewards": {"right": {"fn": "rewards.py:right"}, "short": {"fn": "rewards.py:short", "weight": 0.5}},
        "grpo": {"steps": 20, "prompts_per_step": 4, "num_generations": 4},
        "evaluation": {"every": 5},
        "checkpoints": {"every": 5},
        "emulator": {"policy": "replay", "completions": "completions.jsonl", "learning_rate": 4.0},
    }
    for section, content in sections.items():
        job[section] = {**job.get(section, {}), **content} if isinstance(content, dict) else content
    own = {name: value for name, value in job["grpo"].items() if name in EMULATOR_OVERRIDES}
    job["emulator"] = {**own, **job["emulator"]}  # the emulator would cap what is not its own
    path = job_folder / "job.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path
