"""The emulator against TRL on the same CPU: a step, a whole run, memory, and how far from the arithmetic's floor.

    python -m tests.bench.bench_emulator

Everything in turn in one run, one thread each; ratios are what a change is judged by, times are this machine's. Steps
are timed in seconds of the processor, so that whatever else the machine does counts less; whole runs by the clock.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
PROMPTS, GENERATIONS, TOKENS, STEPS, ROUNDS = 8, 8, 32, 50, 3
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

BARE_TRL = """
import sys, time
began = time.time() if len(sys.argv) < 2 else float(sys.argv[1])
import torch
torch.set_num_threads(1)
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
class Clock(TrainerCallback):
    marks = []
    first = None
    def on_step_begin(self, *args, **kwargs):
        self.first = self.first or time.time()
        self.marks.append(time.process_time())
    def on_step_end(self, *args, **kwargs): self.marks.append(time.process_time())
config = GRPOConfig(output_dir=sys.argv[3], use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
    save_strategy="no", disable_tqdm=True, max_steps=int(sys.argv[4]), per_device_train_batch_size=64,
    num_generations=8, max_completion_length=32, learning_rate=3e-4, beta=0.0,
    model_init_kwargs={"dtype": torch.float32},
    generation_kwargs={"min_new_tokens": 32})
rows = Dataset.from_dict({"prompt": [
    "Using the numbers [3, 5, 2], make an expression that equals 17. " * 2] * 64})
trainer = GRPOTrainer(model=sys.argv[2], reward_funcs=[lambda completions, **_: [float(len(c)) for c in completions]],
    args=config, train_dataset=rows, callbacks=[clock := Clock()])
trainer.train()
print(clock.first - began, *(b - a for a, b in zip(Clock.marks[::2], Clock.marks[1::2])))
"""

EMULATED_STEPS = """
import sys, time
import torch
from emulator.backend import SHIPPED
from emulator.lm.policy import LmPolicy
from emulator.policy import Sampling
from runner.data.examples import Example
from runner.grpo.advantages import advantages
from runner.spec.model import Grpo
grpo = Grpo(steps=100, prompts_per_step=8, num_generations=8, max_completion_length=32, learning_rate=3e-4)
policy = LmPolicy(SHIPPED, grpo)
policy._tokens.end = frozenset({-1})  # every completion has all its tokens, as in the run of TRL beside it
prompt = "Using the numbers [3, 5, 2], make an expression that equals 17. " * 2
examples = [Example(id=i, prompt=prompt, columns={}) for i in range(8)]
for step in range(1, int(sys.argv[1]) + 1):
    began = time.process_time()
    seeds = [[step * 64 + group * 8 + i for i in range(8)] for group in range(8)]
    drawn = policy.sample(examples, Sampling(max_completion_length=32), seeds)
    rewards = [float(len(c.text)) for group in drawn.completions for c in group]
    policy.update(drawn, advantages(rewards, 8, "group"), step)
    print(time.process_time() - began, end=" ")
positions = 8 * len(drawn.prompts[0]) + 64 * 32
size = sum(parameter.numel() for parameter in policy.model.parameters())
a, b = torch.randn(64, 96), torch.randn(96, 192)
began = time.process_time()
for _ in range(2000): a @ b
rate = 2000 * 2 * 64 * 96 * 192 / (time.process_time() - began)
print("|", (2 * size * positions + 6 * size * positions) / rate)
"""

JOB = """
model: none
dataset: {path: data.jsonl, prompt: "Using the numbers {nums}, make an expression that equals {target}."}
rewards: {length: {fn: "rewards.py:length"}}
grpo: {beta: 0.0}
evaluation: {}
emulator: {policy: POLICY, steps: 50, prompts_per_step: 8, num_generations: 8, max_completion_length: 32}
"""


def python(*arguments: str) -> tuple[list[str], float]:
    """The last line a Python process of its own prints, and its seconds from start to exit."""
    began = time.time()
    done = subprocess.run(
        [sys.executable, *arguments], env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=True
    )
    return (done.stdout.strip().splitlines() or [""])[-1].split(), time.time() - began


def write_job(folder: Path, policy: str) -> Path:
    job = folder / "jobs" / policy / "job.yaml"
    job.parent.mkdir(parents=True)
    text = JOB.replace("POLICY", policy)
    if policy == "replay":
        text = text.replace("policy: replay", "policy: replay, completions: completions.jsonl")
    job.write_text(text)
    rows = [{"nums": [3, 5, n % 9 + 1], "target": n} for n in range(64)]
    lines = [json.dumps(row | {"completions": [f"<answer>{i}</answer>" * (i + 1) for i in range(6)]}) for row in rows]
    (job.parent / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (job.parent / "completions.jsonl").write_text("\n".join(lines))
    (job.parent / "rewards.py").write_text(
        "def length(prompt, completion, example):\n    return float(len(completion))\n"
    )
    return job


def emulate(job: Path, home: Path) -> float:
    return python("-c", "import runner.cli; runner.cli.main()", "emulate", str(job), "--home", str(home), "--json")[1]


def peak(job: Path, home: Path) -> float:
    """MB of the largest process of a run: the trainer."""
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    verb = [sys.executable, "-c", "import runner.cli; runner.cli.main()", "emulate", str(job), "--home", str(home)]
    [last], _ = python("-c", code, *verb)
    return float(last)


def main() -> None:
    weights = str(ROOT / "emulator" / "weights")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        lm, replay = write_job(home, "lm"), write_job(home, "replay")
        ways: dict[str, Callable[[], float]] = {
            "lm": lambda: emulate(lm, home),
            "replay": lambda: emulate(replay, home),
        }
        first, steps, ours, runs, floors = [], list[float](), list[float](), dict[str, list[float]](), list[float]()
        for _ in range(ROUNDS):
            figures, _ = python("-c", BARE_TRL, str(time.time()), weights, str(home / "trl"), "6")
            first.append(float(figures[0]))
            steps.append(median(map(float, figures[2:])))
            figures, _ = python("-c", EMULATED_STEPS, "10")
            ours.append(median(map(float, figures[2 : figures.index("|")])))
            floors.append(float(figures[-1]))
            for way, work in ways.items():
                runs.setdefault(way, []).append(work())
        peaks = {"lm": peak(lm, home), "replay": peak(replay, home)}
    report(first, steps, ours, runs, floors, peaks)


def report(
    first: list[float],
    steps: list[float],
    ours: list[float],
    runs: dict[str, list[float]],
    floors: list[float],
    peaks: dict[str, float],
) -> None:
    """Medians, each ratio within its round."""
    ratio = median(a / b for a, b in zip(steps, ours, strict=True))
    times = f"TRL {median(steps):.3f} s, emulator {median(ours):.3f} s"
    print(f"a step of 64 x {TOKENS} tokens    {times}: {ratio:.1f} x faster")
    floor = median(a / b for a, b in zip(ours, floors, strict=True))
    print(f"a step's arithmetic alone    {median(floors):.3f} s; the emulator takes {floor:.1f} x that")
    lm, before = runs["lm"], median(first)
    print(f"{STEPS} steps, start to exit     {median(lm):.1f} s; TRL's first step begins after {before:.1f} s")
    print(f"                             {median(a / b for a, b in zip(lm, first, strict=True)):.2f} of it")
    print(f"{STEPS} steps of replay          {median(runs['replay']):.2f} s from start to exit")
    print(f"peak memory                  lm {peaks['lm']:.0f} MB, replay {peaks['replay']:.0f} MB")


if __name__ == "__main__":
    main()
