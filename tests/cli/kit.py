"""Small builders: a home with a replayed job, and the command line as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent

JOB = """\
model: any/model
dataset: {path: data.jsonl, prompt: "Say {word}.", holdout: 0.25}
rewards:
  right: {fn: "rewards.py:right", trusted: true}
  long: {fn: "rewards.py:long", weight: 0}
grpo: {steps: 6, prompts_per_step: 4, num_generations: 4}
evaluation: {every: 3}
checkpoints: {every: 2}
emulator: {policy: replay, completions: completions.jsonl, learning_rate: 2}
"""
REWARDS = """\
def right(prompt, completion, example):
    return 1.0 if example["word"] in completion else {"score": 0.0, "reason": "not " + example["word"]}


def long(prompt, completion, example):
    return len(completion)
"""
WORDS = ["red", "green", "blue", "white", "black", "pink", "gold", "grey"]


def make_job(
    home: Path,
    name: str = "colours",
    *,
    job: str = JOB,
    rewards: str = REWARDS,
    completions: tuple[str, ...] = ("It is {}.", "No idea.", "{}", "Something else."),
) -> Path:
    """A job in the home's `jobs/` that a replayed run finishes in a moment; gives its folder."""
    folder = home / "jobs" / name
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(job)
    (folder / "rewards.py").write_text(rewards)
    write_lines(folder / "data.jsonl", [{"word": word} for word in WORDS])
    recorded = [{"word": word, "completions": [text.replace("{}", word) for text in completions]} for word in WORDS]
    write_lines(folder / "completions.jsonl", recorded)
    return folder


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def environment() -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RUNNER_")}
    return {**plain, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def command(*args: str | Path) -> list[str]:
    return [sys.executable, "-m", "runner.cli", *map(str, args)]


def cli(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line, run to its end."""
    return subprocess.run(
        command(*args), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )


def as_json(done: subprocess.CompletedProcess[str]) -> Any:
    """What it printed to stdout, as one JSON value."""
    return json.loads(done.stdout)
