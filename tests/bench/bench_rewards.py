"""What isolation costs: µs a call of a trivial reward, directly, through the host, and with a pool future per call.

    python -m tests.bench.bench_rewards

Absolute times are this machine's; the ratios, medians over alternating rounds, are what a change is judged by.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

from runner.rewards.bundle import build, write
from runner.rewards.contract import GroupCall
from runner.rewards.host import RewardHost
from runner.spec.model import Reward

GROUPS, SIZE, ROUNDS = 100, 16, 9
SOURCE = "def length(prompt, completion, example):\n    return len(completion) / 100\n"
EXAMPLE = {"nums": [1, 2, 3, 4], "target": 24, "answer": "1*2*3*4", "source": "bench", "id": 17}


def length(prompt: str, completion: str, example: dict[str, object]) -> float:
    return len(completion) / 100


def microseconds(work: Callable[[], object]) -> float:
    """Of one call, in one round."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) / (GROUPS * SIZE) * 1e6


def main() -> None:
    completions = [f"{number} " + "a word or two " * 107 for number in range(SIZE)]
    prompt = "Make 24 from these. " * 20
    groups = [GroupCall(prompt=prompt, example=EXAMPLE, completions=completions) for _ in range(GROUPS)]
    calls = [(prompt, text, EXAMPLE) for group in groups for text in group.completions]
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2) as pool:
        Path(folder, "rewards.py").write_text(SOURCE)
        version = write(build({"length": Reward(fn="rewards.py:length")}, Path(folder)), Path(folder, "versions"))
        started = time.perf_counter()
        with RewardHost(version, seed=0) as host:
            start = (time.perf_counter() - started) * 1e3
            ways: dict[str, Callable[[], object]] = {
                "direct": lambda: [length(*call) for call in calls],
                "host, 2 workers": lambda: host.score(groups, step=1, split="train"),
                "ProcessPoolExecutor(2)": lambda: [f.result() for f in [pool.submit(length, *call) for call in calls]],
            }
            rounds = [{name: microseconds(way) for name, way in ways.items()} for _ in range(ROUNDS)]
    for name in ways:
        ratio = median(times[name] / times["host, 2 workers"] for times in rounds)
        print(f"{name:24}{median(times[name] for times in rounds):9.2f} µs a call  {ratio:7.3f} x the host's")
    print(f"{'cold start':24}{start:9.1f} ms")


if __name__ == "__main__":
    main()
