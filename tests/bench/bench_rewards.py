"""What isolation costs: reward calls in the full sandbox, against what others do and against no sandbox.

    python -m tests.bench.bench_rewards

Absolute times are this machine's at this moment; the ratios, medians over alternating rounds, are what a change is
judged by. Each line names its goal and whether it is met here.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from unittest.mock import patch

from runner.rewards import processes
from runner.rewards.bundle import build, write
from runner.rewards.contract import GroupCall
from runner.rewards.environment import cache_folder, ensure
from runner.rewards.host import RewardHost
from runner.spec.errors import JobError
from runner.spec.model import Reward

GROUPS, SIZE, ROUNDS, WORKERS = 40, 16, 7, 2
EXAMPLE = {"nums": [1, 2, 3, 4], "target": 24, "answer": "1*2*3*4", "source": "bench", "id": 17}
PROMPT = "Make 24 from these. " * 20
TEXTS = [f"{number} " + "a word or two " * 107 for number in range(SIZE)]
SPIN = 0.00075
"""Seconds of processor time of the busy reward."""
SOURCE = """
import time
def length(prompt, completion, example):
    return len(completion) / 100
def busy(prompt, completion, example):
    until = time.process_time() + 0.00075
    while time.process_time() < until:
        pass
    return 1.0
def hang(prompt, completion, example):
    return time.sleep(60) if completion == "hang" else 1.0
def wait(prompt, completion, example):
    time.sleep(0.1)
async def wait_async(prompt, completion, example):
    import asyncio
    await asyncio.sleep(0.1)
"""


def length(prompt: str, completion: str, example: dict[str, object]) -> float:
    return len(completion) / 100


def busy_loop(calls: int) -> None:
    for _ in range(calls):
        until = time.process_time() + SPIN
        while time.process_time() < until:
            pass


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ratios(
    ours: Callable[[], object], theirs: Callable[[], object], scale: float = 1.0, rounds: int = ROUNDS
) -> tuple[float, float, float]:
    """Medians of (their time / ours), ours and theirs in seconds, over alternating rounds. `scale`: their share."""
    ours()
    found = [(seconds(ours), seconds(theirs) * scale) for _ in range(rounds)]
    return median(b / a for a, b in found), median(a for a, _ in found), median(b for _, b in found)


def say(what: str, value: float, goal: float, detail: str, *, at_least: bool = True) -> None:
    met = value >= goal if at_least else value <= goal
    print(f"{what:58}{value:9.2f}  goal {'≥' if at_least else '≤'} {goal:<6g} {'met' if met else 'NOT MET':8} {detail}")


def host(folder: Path, stack: ExitStack, name: str, **options: object) -> RewardHost:
    version = write(build({name: Reward.model_validate({"fn": f"rewards.py:{name}", **options})}, folder), folder / "v")
    return stack.enter_context(RewardHost(version, seed=0, workers=WORKERS))


def groups(texts: Iterable[str], count: int) -> list[GroupCall]:
    return [GroupCall(prompt=PROMPT, example=EXAMPLE, completions=list(texts))] * count


def trivial(folder: Path, stack: ExitStack) -> None:
    """Against one future a call, as pools are used; with a deadline for each, as verl does; and a process a call."""
    ours = host(folder, stack, "length")
    isolated = host(folder, stack, "length", isolation="call")
    pool = stack.enter_context(ProcessPoolExecutor(WORKERS))
    batch, calls = groups(TEXTS, GROUPS), GROUPS * SIZE
    arguments = [(PROMPT, text, EXAMPLE) for _ in range(GROUPS) for text in TEXTS]

    def futures() -> None:
        _ = [future.result() for future in [pool.submit(length, *each) for each in arguments]]

    async def with_deadlines() -> None:
        loop = asyncio.get_running_loop()
        await asyncio.gather(
            *(asyncio.wait_for(loop.run_in_executor(pool, length, *each), timeout=10) for each in arguments)
        )

    def each_a_process() -> None:
        for _ in range(8):
            subprocess.run([sys.executable, "-S", "-c", "print(len('a') / 100)"], stdout=subprocess.PIPE, check=True)

    def run() -> object:
        return ours.score(batch, step=1, split="train")

    few = batch[: 64 // SIZE]
    few_arguments = arguments[:64]
    ratio, mine, other = ratios(
        lambda: ours.score(few, step=1, split="train"),
        lambda: [future.result() for future in [pool.submit(length, *each) for each in few_arguments]],
        rounds=40,
    )
    say(
        "× faster: ProcessPoolExecutor, in a batch of 64 calls",
        ratio,
        5,
        f"{mine / 64e-6:.0f} µs a call, {other / 64e-6:.0f} µs",
    )
    for what, theirs, scale, goal in (
        ("ProcessPoolExecutor, a future a call", futures, 1.0, 5),
        ("ProcessPoolExecutor, a future with a deadline (verl)", lambda: asyncio.run(with_deadlines()), 1.0, 5),
        ("subprocess.run a call", each_a_process, calls / 8, 250),
    ):
        ratio, mine, other = ratios(run, theirs, scale)
        say(f"× faster: {what}", ratio, goal, f"{mine / calls * 1e6:.0f} µs a call, {other / calls * 1e6:.0f} µs")
    _, mine, _ = ratios(lambda: isolated.score(batch[:4], step=1, split="train"), lambda: None)
    say("ms a call, each in a process of its own", mine / 64 * 1e3, 4, "isolation: call", at_least=False)


def busy(folder: Path, stack: ExitStack) -> None:
    """Against plain loops in forked processes, and against the same host without confinement."""
    ours = host(folder, stack, "busy")
    with patch.object(processes, "ROOM", unconfined(folder)):
        loose = host(folder, stack, "busy")
        loose_length = host(folder, stack, "length")
    length_host = host(folder, stack, "length")
    batch, calls = groups(TEXTS, 20), 20 * SIZE

    def loops() -> None:
        children = [_forked(lambda: busy_loop(calls // WORKERS)) for _ in range(WORKERS)]
        for child in children:
            os.waitpid(child, 0)

    ratio, mine, other = ratios(lambda: ours.score(batch, step=1, split="train"), loops)
    say(
        "throughput of a 0.75 ms reward / plain forked loops", ratio, 0.85, f"{mine * 1e3:.0f} ms, {other * 1e3:.0f} ms"
    )
    for name, on, off in (("0.75 ms", ours, loose), ("trivial", length_host, loose_length)):
        ratio, mine, other = ratios(
            lambda host=off: host.score(batch, step=1, split="train"),
            lambda host=on: host.score(batch, step=1, split="train"),
        )
        say(
            f"confinement on / off, {name} reward",
            ratio,
            1.15,
            f"{other / calls * 1e6:.0f} µs a call on",
            at_least=False,
        )


def _forked(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return child


def unconfined(folder: Path) -> Path:
    """A copy of the reward processes' code whose confinement does nothing."""
    room = folder / "unconfined"
    shutil.copytree(Path(processes.__file__).parent, room)
    source = (room / "confine.py").read_text()
    for name in ("confine(policy: Policy)", "confine_worker()", "forbid_processes(policy: Policy)"):
        source = source.replace(f"def {name} -> Missing:", f"def {name} -> Missing:\n    return {{}}\n", 1)
    (room / "confine.py").write_text(source)
    return room


def waits(folder: Path, stack: ExitStack) -> None:
    hangs = host(folder, stack, "hang", timeout=0.5)
    batch = groups(["a", "b", "c", "hang", "e", "f", "g", "h"], 1)
    _, mine, _ = ratios(lambda: hangs.score(batch, step=1, split="train"), lambda: None)
    say("ms that a hang costs beyond its deadline", (mine - 0.5) * 1e3, 100, "deadline 500 ms", at_least=False)
    many = groups(TEXTS, 40)
    for name, width, goal in (("wait", 64, 0.85), ("wait_async", 256, 0.7)):
        ours = host(folder, stack, name, concurrency=width)
        _, mine, _ = ratios(lambda host=ours: host.score(many, step=1, split="train"), lambda: None)
        ideal = 0.1 * -(-40 * SIZE // width)
        say(
            f"{width} waits of 100 ms at a time: share of the ideal ({name})",
            ideal / mine,
            goal,
            f"{mine * 1e3:.0f} ms",
        )


def starts(folder: Path) -> None:
    def start() -> None:
        with ExitStack() as stack:
            host(folder, stack, "length")

    _, mine, _ = ratios(start, lambda: None)
    say("ms to start and to close: zygote, workers", mine * 1e3, 150, "not the reward file's import", at_least=False)


def packages(folder: Path, names: list[str]) -> None:
    """An environment of rewards, built with uv's cache and ours filled, against `python -m venv` and pip with its own.

    Both end with compiled packages, which is nearly all that large ones cost: ours compiles a file only once.
    """
    os.environ["RUNNER_CACHE"] = str(folder)

    def ours() -> None:
        shutil.rmtree(cache_folder(), ignore_errors=True)
        ensure(names)

    def theirs() -> None:
        shutil.rmtree(folder / "venv", ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        install = [folder / "venv" / "bin" / "pip", "install", "--quiet", *names]
        subprocess.run(install, check=True, stderr=subprocess.DEVNULL)

    try:
        ours()
    except JobError as error:
        print(f"no environment can be built here: {error}")
        return
    theirs()
    ratio, mine, other = ratios(ours, theirs, rounds=1)
    say(f"× faster: an environment of {names[0]}, than venv and pip", ratio, 10, f"{mine:.1f} s, {other:.1f} s")


def main() -> None:
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; a loaded machine makes every absolute time worse")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rewards.py").write_text(SOURCE)
        for part in (trivial, busy, waits):
            with ExitStack() as own:
                part(folder, own)
        starts(folder)
        packages(folder, ["rapidfuzz"])
        packages(folder, ["sympy"])


if __name__ == "__main__":
    main()
