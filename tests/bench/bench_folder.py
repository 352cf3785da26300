"""What one warm process saves: `runner emulate jobs/` with ten small jobs, against a call for each of them.

    python -m tests.bench.bench_folder [--rounds 3] [--lm]

The two ways run in turn, so a busy machine slows both; medians. Target: the folder at least 3 times faster. `--lm`:
jobs of the tiny language model, a few steps each, where torch's import is what is saved.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from tests.small_job import write_job

ROOT = Path(__file__).parent.parent.parent
JOBS = 10
TARGET = 3.0


def write_lm_job(home: Path, name: str) -> None:
    """The countdown example, four small steps of it."""
    folder = home / "jobs" / name
    shutil.copytree(ROOT / "jobs/examples/countdown", folder)
    job: dict[str, Any] = yaml.safe_load((folder / "job.yaml").read_text())
    job["evaluation"] = {"limit": 4}
    sizes = {"steps": 4, "prompts_per_step": 2, "num_generations": 4, "max_completion_length": 24}
    job["emulator"] = {"policy": "lm", **sizes}
    (folder / "job.yaml").write_text(yaml.safe_dump(job, sort_keys=False))


def seconds(home: Path, *calls: list[str]) -> float:
    """The calls one after another, in a home without runs."""
    shutil.rmtree(home / ".runner", ignore_errors=True)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    for jobs in calls:
        command = [sys.executable, "-m", "runner.cli", "emulate", *jobs]
        subprocess.run(command, cwd=home, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lm", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        names = [f"job{number}" for number in range(JOBS)]
        for name in names:
            write_lm_job(home, name) if options.lm else write_job(home, name=name)
        rounds = [
            (seconds(home, ["jobs"]), seconds(home, *([f"jobs/{name}"] for name in names)))
            for _ in range(options.rounds)
        ]
    ratio = median(singly / together for together, singly in rounds)
    print(f"a folder of {JOBS}       {median(together for together, _ in rounds):7.2f} s")
    print(f"{JOBS} single calls      {median(singly for _, singly in rounds):7.2f} s")
    print(f"single / folder     {ratio:7.2f}   (target ≥ {TARGET:g})")
    return 0 if ratio >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
