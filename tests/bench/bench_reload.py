"""From the save of a reward file to the version that is ready, and that is live, in a run that trains.

    python -m tests.bench.bench_reload

The reward is trivial; the trainer makes steps of recorded completions, one after another, and so keeps a core busy. The
goal is 400 ms to `staged` at the 95th percentile. `cold start` is what starting reward workers takes here and now, the
part that a loaded machine stretches most.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

from runner import api
from runner.journal.events import VersionChanged
from runner.journal.log import read_types
from runner.rewards.host import RewardHost
from runner.rewards.versions import Shelf
from tests.small_job import REWARDS, write_job

EDITS = 40
GOAL_MS = 400


def main() -> None:
    print(f"{'milliseconds from save to':28}{'median':>8}{'p95':>8}{'most':>8}")
    for what, seconds in measure().items():
        ordered = sorted(1e3 * second for second in seconds)
        p95 = ordered[int(0.95 * len(ordered))]
        verdict = "" if what != "staged" else "  within the goal" if p95 <= GOAL_MS else "  MISSES THE GOAL"
        print(f"{what:28}{ordered[len(ordered) // 2]:8.0f}{p95:8.0f}{ordered[-1]:8.0f}{verdict}")


def measure() -> dict[str, list[float]]:
    """Seconds from each of the edits, made at random moments, to what follows."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        long = {"grpo": {"steps": 1_000_000}, "checkpoints": {"every": 1_000_000}, "evaluation": {"every": 1_000_000}}
        job = write_job(home, **long)
        run = api.emulate(job, home=home, wait=False)
        journal = run.home.run(run.id).journal(1)
        while not journal.exists() or b'"metrics_reported"' not in journal.read_bytes():
            time.sleep(0.05)
        chance = random.Random(0)
        saved: list[float] = []
        for number in range(EDITS):
            time.sleep(chance.uniform(0.05, 0.15))
            saved.append(time.time())
            (job.parent / "rewards.py").write_text(f"# edit {number}\n{REWARDS}")
            wait_until_live(journal, number + 2)
        events = [event for event in read_types(journal, "version_changed") if isinstance(event, VersionChanged)]
        cold = [cold_start(run.folder / "rewards" / events[0].version) for _ in range(EDITS // 4)]
        published = [line.at for line, _ in Shelf(run.folder / "rewards").publications()][1:]
        run.stop()
        run.stop()
        run.wait()
    at = {(event.number, event.state): event.at for event in events}
    found = {state: [at[n + 2, state] - when for n, when in enumerate(saved)] for state in ("staged", "active")}
    return {"published": [at - when for at, when in zip(published, saved, strict=True)], **found, "cold start": cold}


def cold_start(version: Path) -> float:
    """Seconds until the workers of a version are ready."""
    began = time.perf_counter()
    with RewardHost(version, seed=0):
        return time.perf_counter() - began


def wait_until_live(journal: Path, number: int) -> None:
    while not any(
        isinstance(event, VersionChanged) and (event.number, event.state) == (number, "active")
        for event in read_types(journal, "version_changed")
    ):
        time.sleep(0.05)


if __name__ == "__main__":
    main()
