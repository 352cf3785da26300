"""What the runner adds to TRL: the same training, here and as a bare TRL script, in turn, each in a process of its own.

    python -m tests.bench.bench_trl

On the CPU, or on the GPU where there is one. One thread each. Ours has what a run has: rewards in isolated workers, the
journal, the comparison of advantages, the check of the weights. `our code` is timed where it runs: scoring without the
wait for the reward workers, making groups, comparing, reporting.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from emulator.backend import SHIPPED

ROOT = Path(__file__).parents[2]
PROMPTS, GENERATIONS, TOKENS, STEPS, ROUNDS = 8, 8, 32, 12, 3
COMPLETIONS = PROMPTS * GENERATIONS
WARM_UP = 2
"""Steps left out at the beginning."""
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

SHARED = """
import json, resource, sys, time
import torch
torch.set_num_threads(1)
from transformers import TrainerCallback
folder, steps, prompts, generations, tokens, model = sys.argv[1], *map(int, sys.argv[2:6]), sys.argv[6]
gpu = torch.cuda.is_available()
texts = [f"Using the numbers [3, 5, {n}], make an expression that equals 17. " * 2 for n in range(64)]
marks = []
clock = time.perf_counter if gpu else time.process_time  # of the processor: what else the machine does counts less
class Clock(TrainerCallback):
    def on_step_begin(self, *args, **kwargs): marks.append(clock())
    def on_step_end(self, *args, **kwargs): marks.append(clock())
def tell(ours):
    peak = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    took = [b - a for a, b in zip(marks[::2], marks[1::2])]
    print("RESULT", json.dumps({"steps": took, "peak": peak, "ours": ours}))
"""

BARE = (
    SHARED
    + """
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
config = GRPOConfig(output_dir=folder, use_cpu=not gpu, bf16=gpu, gradient_checkpointing=False, report_to="none",
    save_strategy="no", disable_tqdm=True, logging_steps=1, max_steps=steps, per_device_train_batch_size=8,
    gradient_accumulation_steps=prompts * generations // 8, num_generations=generations, max_completion_length=tokens,
    learning_rate=1e-5, beta=0.0, shuffle_dataset=False, model_init_kwargs={"dtype": torch.float32})
trainer = GRPOTrainer(model=model, reward_funcs=[lambda completions, **_: [len(c) / 100 for c in completions]],
    args=config, train_dataset=Dataset.from_dict({"prompt": texts}), callbacks=[Clock()])
trainer.train()
tell([])
"""
)

OURS = (
    SHARED
    + """
import os
from pathlib import Path
os.environ["RUNNER_DEVICE"] = "gpu" if gpu else "cpu"
from runner.backends import load_backend
from runner.backends.trl import build, reporter, trainer
from runner.data.examples import Example
from runner.grpo.run import Run
from runner.journal.log import Journal
from runner.rewards import bundle
from runner.rewards.host import RewardHost
from runner.spec.model import JobSpec
spent, waited = [0.0], [0.0]
def timed(owner, name, total):
    inner = getattr(owner, name)
    def wrapped(*args, **kwargs):
        began = time.perf_counter()
        try:
            return inner(*args, **kwargs)
        finally:
            total[0] += time.perf_counter() - began
    setattr(owner, name, wrapped)
timed(RewardHost, "score", waited)
for owner, name in ((Run, "score"), (Run, "report"), (trainer.RunTrainer, "_groups"), (trainer, "check_advantages"),
                    (trainer.RunTrainer, "weights_are_finite"), (trainer.OrderSampler, "__iter__")):
    timed(owner, name, spent)
ours, before = [], [0.0]
class Ours(Clock):
    def on_step_begin(self, *args, **kwargs):
        super().on_step_begin()
        ours.append(spent[0] - waited[0])  # the report of a step comes behind its end
build.trackers = lambda names, run: [Ours()]
home = Path(folder)
(home / "rewards.py").write_text("def length(prompt, completion, example):\\n    return len(completion) / 100\\n")
job = JobSpec.model_validate({"model": model, "dataset": {"path": "data.jsonl"},
    "rewards": {"length": {"fn": "rewards.py:length"}},
    "grpo": {"steps": steps, "prompts_per_step": prompts, "num_generations": generations, "micro_batch": 8,
             "max_completion_length": tokens, "learning_rate": 1e-5, "gradient_checkpointing": False, "vllm": False},
    "checkpoints": {"every": 10**6}})
with RewardHost(bundle.write(bundle.build(job.rewards, home), home / "rewards"), seed=0) as host:
    run = Run(job=job, folder=home, train=[Example(id=i, prompt=text, columns={}) for i, text in enumerate(texts)],
        held_out=(), scorer=host, journal=Journal(home / "journal.jsonl"), stop_requested=lambda: False, emulated=False)
    load_backend("trl").train(job, run)
tell([b - a for a, b in zip(ours, ours[1:])])
"""
)


def measured(script: str, model: Path) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory() as folder:
        sizes = [str(number) for number in (STEPS, PROMPTS, GENERATIONS, TOKENS)]
        done = subprocess.run(
            [sys.executable, "-c", script, folder, *sizes, str(model)],
            env=ENVIRONMENT, capture_output=True, text=True, check=False,
        )  # fmt: skip
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not found:
        sys.exit(f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(found[-1].removeprefix("RESULT "))


def say(what: str, value: float, goal: float | None, detail: str) -> None:
    verdict = "" if goal is None else f"goal ≤ {goal:<6g} {'met' if value <= goal else 'NOT MET'}"
    print(f"{what:52}{value:9.3f}  {verdict:24} {detail}")


def main() -> None:
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED
    print(f"{COMPLETIONS} completions of {TOKENS} tokens a step, {STEPS} steps, {ROUNDS} rounds in turn; {model.name}")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; a loaded machine makes every time worse")
    rounds = [(measured(OURS, model), measured(BARE, model)) for _ in range(ROUNDS)]
    goal = 20 + 0.06 * COMPLETIONS
    ours = [seconds * 1e3 for mine, _ in rounds for seconds in mine["ours"][WARM_UP:]]
    say("ms a step in our code, without waiting for rewards", median(ours), goal, f"most {max(ours):.1f} ms")
    steps = [(median(mine["steps"][WARM_UP:]), median(bare["steps"][WARM_UP:])) for mine, bare in rounds]
    detail = f"{median(a for a, _ in steps) * 1e3:.0f} ms, {median(b for _, b in steps) * 1e3:.0f} ms"
    say("time of a step / bare TRL", median(a / b for a, b in steps), None, detail)
    peaks = [(mine["peak"], bare["peak"]) for mine, bare in rounds]
    detail = f"{median(a for a, _ in peaks) / 1e6:.0f} MB, {median(b for _, b in peaks) / 1e6:.0f} MB"  # type: ignore[operator]
    say("peak memory / bare TRL", median(a / b for a, b in peaks), 1.05, detail)  # type: ignore[operator]


if __name__ == "__main__":
    main()
