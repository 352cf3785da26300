"""TRL with the real vLLM engine, on a CPU, in an environment of its own: `make test-vllm`. Nothing is mocked.

vLLM changes its process for good (threads, seeds, patches), so every test trains in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.vllm

TRAIN = """
import sys
from pathlib import Path
from runner.backends import load_backend
from tests.backends.kit import make_job, make_run

folder, model, sabotage = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
job = make_job(model, steps=4, learning_rate=1e-2, vllm=True, vllm_max_model_length=64, vllm_gpu_memory_utilization=0.1,
               lr_scheduler_type="constant")
backend = load_backend("trl")
assert backend.check(job) == [], backend.check(job)
if sabotage == "no-sync":
    from trl.generation.vllm_generation import VLLMGeneration
    VLLMGeneration.sync_weights = lambda self: None
run = make_run(folder, job)
backend.train(job, run)
print(run.finish())
"""


def train(folder: Path, model: Path, sabotage: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", TRAIN, str(folder), str(model), sabotage],
        capture_output=True,
        text=True,
        env={**os.environ, "RUNNER_DEVICE": "cpu", "OMP_NUM_THREADS": "1"},
    )


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "journal-1.jsonl").read_text().splitlines()]
    return [line["metrics"] for line in lines if line["type"] == "metrics_reported"]


def test_the_engine_generates_follows_the_policy_and_agrees_with_the_trainer(
    tmp_path: Path, engine_model: Path
) -> None:
    done = train(tmp_path, engine_model)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "finished" in done.stdout
    reported = metrics(tmp_path)
    assert len(reported) == 4
    assert max(step["sampling/sampling_logp_difference/mean"] for step in reported) < 0.02
    assert all(step["advantages_max_difference"] < 1e-3 for step in reported)


def test_an_engine_that_does_not_follow_is_caught_at_the_first_update(tmp_path: Path, engine_model: Path) -> None:
    done = train(tmp_path, engine_model, sabotage="no-sync")
    assert done.returncode != 0
    assert "vLLM answers exactly as before" in done.stderr
    assert len(metrics(tmp_path)) == 1
