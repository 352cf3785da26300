"""TRL with the real vLLM engine, on a CPU, in an environment of its own: `make test-vllm`. Nothing is mocked.

vLLM changes its process for good (threads, seeds, patches), so every test trains in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner import api
from runner.store import queries
from tests.cli.kit import cli
from tests.queue.test_runs import kill_tree
from tests.small_job import write_job

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
        env=cpu_only(),
    )


def cpu_only() -> dict[str, str]:
    return {**os.environ, "RUNNER_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}


def until(condition: Callable[[], object], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.2)


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


EDITED = """

def right(prompt, completion, example):
    return 10.0 + len(completion) % 7
"""


def test_a_run_through_the_whole_product_takes_an_edit_survives_a_kill_and_its_adapter_answers_otherwise(
    tmp_path: Path, engine_model: Path
) -> None:
    job = write_job(
        tmp_path,
        model=str(engine_model),
        lora={"rank": 4, "alpha": 8},
        grpo={
            "steps": 16,
            "prompts_per_step": 2,
            "num_generations": 4,
            "max_completion_length": 8,
            "learning_rate": 1e-2,
            "vllm_max_model_length": 64,
            "vllm_gpu_memory_utilization": 0.1,
        },
        evaluation={"every": 100, "limit": 1},
        checkpoints={"every": 1},
    )
    run = api.run(job, device="cpu", home=tmp_path, wait=False)
    until(lambda: len(run.metrics("reward")) >= 2 or not run.row.state.is_live)
    with (job.parent / "rewards.py").open("a") as file:
        file.write(EDITED)
    until(lambda: live_from(run) or not run.row.state.is_live)
    edited = live_from(run)
    assert edited, (run.row.detail, run.row.error)
    until(lambda: len(run.metrics("reward")) >= edited or not run.row.state.is_live)
    assert run.supervisor is not None, run.row.detail
    kill_tree(run.supervisor.pid)
    run.supervisor.wait()
    until(lambda: not run.row.state.is_live)
    assert (run.row.state, run.row.reason) == ("held", "lost")
    run = api.resume(run.id, home=tmp_path)
    assert run.row.state == "succeeded", (run.row.detail, run.row.error)
    assert [step for step, _ in run.metrics("reward")] == list(range(1, 17))
    right = dict(run.metrics("rewards/right/mean"))
    assert {step for step, value in right.items() if value >= 10} == set(range(edited, 17))
    assert {"time/generate", "time/sync", "time/reward", "time/train"} <= {name for name, _ in named_metrics(run)}
    exported = tmp_path / "tuned"
    done = cli("export", run.id, "--model", exported, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "verified: loads" in done.stderr
    base, tuned = [
        subprocess.run(
            [sys.executable, "-c", ANSWER, str(engine_model), adapter], capture_output=True, text=True, env=cpu_only()
        )
        for adapter in ("", str(exported))
    ]
    assert tuned.returncode == 0, tuned.stderr[-3000:]
    peft_base, vllm_base = base.stdout.split("\n")[-3:-1]
    peft_tuned, vllm_tuned = tuned.stdout.split("\n")[-3:-1]
    assert peft_base != peft_tuned
    assert vllm_base != vllm_tuned


def live_from(run: api.RunHandle) -> int:
    """First step of the run's second reward version; 0 while it is not live."""
    with run.reading() as store:
        rows = queries.reward_versions(store, run.id)
    return next((row.first_step or 0 for row in rows if row.version == 2), 0)


def named_metrics(run: api.RunHandle) -> list[tuple[str, Any]]:
    with run.reading() as store:
        return list(queries.metrics(store, run.id).items())


ANSWER = """
import functools, sys
import torch
from runner.backends.trl import engine
from transformers import AutoModelForCausalLM, AutoTokenizer

base, adapter = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(base)
ids = tokenizer("1 + 2 =", add_special_tokens=False)["input_ids"]
model = AutoModelForCausalLM.from_pretrained(base)
if adapter:
    from peft import PeftModel
    model = PeftModel.from_pretrained(model, adapter)
with torch.inference_mode():
    peft = [round(x, 4) for x in model(torch.tensor([ids])).logits[0, -1, :8].tolist()]
engine.prepare("cpu")
import trl.generation.vllm_generation as generation
from vllm import SamplingParams
from vllm.lora.request import LoRARequest
room = {"max_model_len": 64, "gpu_memory_utilization": 0.1}
llm = generation.LLM(model=base, enable_lora=bool(adapter), max_lora_rank=8, **room)
settings = SamplingParams(temperature=0.0, max_tokens=1, logprobs=5)
request = LoRARequest("tuned", 1, adapter) if adapter else None
[output] = llm.generate([{"prompt_token_ids": ids}], settings, lora_request=request, use_tqdm=False)
entries = sorted((id, round(entry.logprob, 3)) for id, entry in output.outputs[0].logprobs[0].items())
print(peft)
print(entries)
"""
