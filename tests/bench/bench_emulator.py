"""The emulator against TRL on the same CPU: a step, a whole run, memory, and how far from the arithmetic's floor.

    python -m tests.bench.bench_emulator

Everything in turn in one run, one thread each, and then two each; ratios are what a change is judged by, times are this
machine's, which should do nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
PROMPTS, GENERATIONS, TOKENS, STEPS, ROUNDS = 8, 8, 32, 50, 5
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

BARE_TRL = """
import sys, time
began = time.time() if len(sys.argv) < 2 else float(sys.argv[1])
import torch
torch.set_num_threads(int(sys.argv[5]))
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
class Clock(TrainerCallback):
    marks = []
    first = None
    def on_step_begin(self, *args, **kwargs):
        self.first = self.first or time.time()
        self.marks.append(time.perf_counter())
    def on_step_end(self, *args, **kwargs): self.marks.append(time.perf_counter())
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
from emulator.lm.tokens import Tokens
from emulator.policy import Sampling
from runner.data.examples import Example
from runner.grpo.advantages import advantages
from runner.spec.model import Grpo
grpo = Grpo(steps=100, prompts_per_step=8, num_generations=8, max_completion_length=32, learning_rate=3e-4)
Tokens.end = property(lambda self: frozenset({-1}), lambda self, value: None)  # as in TRL's run: all tokens are drawn
policy = LmPolicy(SHIPPED, grpo, threads=int(sys.argv[2]))
prompt = "Using the numbers [3, 5, 2], make an expression that equals 17. " * 2
examples = [Example(id=i, prompt=prompt, columns={}) for i in range(8)]
for step in range(1, int(sys.argv[1]) + 1):
    began = time.perf_counter()
    seeds = [[step * 64 + group * 8 + i for i in range(8)] for group in range(8)]
    drawn = policy.sample(examples, Sampling(max_completion_length=32), seeds)
    rewards = [float(len(c.text)) for group in drawn.completions for c in group]
    policy.update(drawn, advantages(rewards, 8, "group"), step)
    print(time.perf_counter() - began, end=" ")
positions = 8 * len(drawn.prompts[0]) + 64 * 32
config = policy.model.config
inside = sum(p.numel() for p in policy.model.blocks.parameters()) + config.vocab_size * config.hidden_size
a, b = torch.randn(2048, config.hidden_size), torch.randn(2 * config.intermediate_size, config.hidden_size)
from emulator.lm.ops import linear
torch.set_grad_enabled(False)
for _ in range(20): linear(a, b)
began = time.perf_counter()
for _ in range(300): linear(a, b)
rate = 300 * 2 * a.numel() * len(b) / (time.perf_counter() - began)
print("|", 8 * inside * positions / rate)
"""

JOB = """
model: none
dataset: {path: data.jsonl, prompt: "Using the numbers {nums}, make an expression that equals {target}."}
rewards: {length: {fn: "rewards.py:length"}}
grpo: {beta: 0.0}
evaluation: {}
emulator: {policy: POLICY, steps: 50, prompts_per_step: 8, num_generations: 8, max_completion_length: 32}
"""


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds, everything in turn."""

    threads: int
    first: float
    """From the start of TRL's process to its first step."""
    theirs: float
    """A step of TRL."""
    ours: float
    """A step of the emulator."""
    floor: float
    """What the arithmetic of a step takes in products of the model's sizes, on one core."""
    bare: float
    """50 steps, from process start to exit, without the checks."""
    checked: float
    """The same with them."""


def python(*arguments: str, threads: int = 1) -> tuple[list[str], float]:
    """The last line a Python process of its own prints, and its seconds from start to exit."""
    began, environment = time.time(), {**ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
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


def emulate(job: Path, home: Path, *options: str) -> float:
    code = "import runner.cli; runner.cli.main()"
    return python("-c", code, "emulate", str(job), "--home", str(home), "--json", *options)[1]


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


def in_turn(job: Path, home: Path, threads: int) -> Round:
    weights, shared = str(ROOT / "emulator" / "weights"), ("--set", f"emulator.threads={threads}")
    trl, _ = python("-c", BARE_TRL, str(time.time()), weights, str(home / "trl"), "6", str(threads), threads=threads)
    ours, _ = python("-c", EMULATED_STEPS, "12", str(threads))
    return Round(
        threads=threads,
        first=float(trl[0]),
        theirs=median(map(float, trl[2:])),
        ours=median(map(float, ours[2 : ours.index("|")])),
        floor=float(ours[-1]),
        bare=emulate(job, home, "--no-checks", *shared),
        checked=emulate(job, home, *shared),
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        lm, replay = write_job(home, "lm"), write_job(home, "replay")
        rounds = [in_turn(lm, home, threads) for _ in range(ROUNDS) for threads in (1, 2)]
        for threads in (1, 2):
            report([item for item in rounds if item.threads == threads])
        replayed = median(emulate(replay, home) for _ in range(ROUNDS))
        print(f"{STEPS} steps of replay    {replayed:.2f} s from start to exit")
        print(f"peak memory            lm {peak(lm, home):.0f} MB, replay {peak(replay, home):.0f} MB")


def report(rounds: list[Round]) -> None:
    """Medians, each ratio within its round."""

    def middle(figure: Callable[[Round], float]) -> float:
        return median(map(figure, rounds))

    print("one thread each" if rounds[0].threads == 1 else f"{rounds[0].threads} threads each")
    steps = f"TRL {middle(lambda r: r.theirs):.3f} s, emulator {middle(lambda r: r.ours):.3f} s"
    print(f"a step of 64 x {TOKENS}      {steps}: {middle(lambda r: r.theirs / r.ours):.1f} x faster")
    floor = middle(lambda r: r.ours / r.floor)
    print(f"its arithmetic alone   {middle(lambda r: r.floor):.3f} s on a core; the emulator takes {floor:.1f} x that")
    print(f"TRL's first step       begins after {middle(lambda r: r.first):.1f} s")
    bare, checked = middle(lambda r: r.bare / r.first), middle(lambda r: r.checked / r.first)
    print(f"{STEPS} steps to exit       {middle(lambda r: r.bare):.1f} s without the checks: {bare:.2f} of that")
    print(f"                       {middle(lambda r: r.checked):.1f} s with them: {checked:.2f} of that")


if __name__ == "__main__":
    main()
