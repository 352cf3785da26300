"""What isolation costs: µs a call of a trivial reward, directly, through the host, and with a pool future per call.

    python -m tests.bench.bench_rewards

Absolute times are this machine's; the ratios, taken in one run, are what a change should be judged by.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from runner.rewards.bundle import build, write
from runner.rewards.contract import GroupCall
from runner.rewards.host import RewardHost
from runner.spec.model import Reward

GROUPS, SIZE, ROUNDS = 100, 16, 5
SOURCE = "def length(prompt, completion, example):\n    return len(completion) / 100\n"
EXAMPLE = {"nums": [1, 2, 3, 4], "target": 24, "answer": "1*2*3*4", "source": "bench", "id": 17}


def length(prompt: str, completion: str, example: dict[str, object]) -> float:
    return len(completion) / 100


def microseconds(work: Callable[[], object]) -> float:
    """Of one call, best of some rounds."""
    times: list[float] = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times) / (GROUPS * SIZE) * 1e6


def main() -> None:
    completions = [f"{number} " + "a word or two " * 107 for number in range(SIZE)]
    groups = [
        GroupCall(prompt="Make 24 from these. " * 20, example=EXAMPLE, completions=completions) for _ in range(GROUPS)
    ]
    calls = [(group.prompt, text, EXAMPLE) for group in groups for text in completions]
    direct = microseconds(lambda: [length(*call) for call in calls])
    with ProcessPoolExecutor(2) as pool:
        pooled = microseconds(lambda: [future.result() for future in [pool.submit(length, *call) for call in calls]])
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "rewards.py").write_text(SOURCE)
        version = write(build({"length": Reward(fn="rewards.py:length")}, Path(folder)), Path(folder, "versions"))
        started = time.perf_counter()
        with RewardHost(version, seed=0) as host:
            start = (time.perf_counter() - started) * 1e3
            before = os.times()
            hosted = microseconds(lambda: host.score(groups, step=1, split="train"))
            after = os.times()
    cpu = (after.user + after.system - before.user - before.system) / (GROUPS * SIZE * ROUNDS) * 1e6
    print(f"direct call                 {direct:8.2f} µs")
    print(f"host, 2 workers             {hosted:8.2f} µs   ({cpu:.1f} µs CPU of this process)")
    print(f"ProcessPoolExecutor(2)      {pooled:8.2f} µs   {pooled / hosted:.1f} x the host's")
    print(f"cold start                  {start:8.1f} ms")


if __name__ == "__main__":
    main()
