"""How long a person waits for `runner validate`: a cold process, against importing the libraries and `trl grpo`.

    python -m tests.bench.bench_validate [--rounds 9]

The three commands run in turn, so a busy machine slows all of them; medians. Targets: at most 2.5 times the import of
pydantic, jsonschema and yaml, and at most a fifteenth of `trl grpo --help`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

JOB = Path("jobs/examples/countdown/job.yaml")
COMMANDS = {
    "import": [sys.executable, "-c", "import pydantic, jsonschema, yaml"],
    "validate": [sys.executable, "-m", "runner.cli", "validate", str(JOB)],
    "trl": [str(Path(sys.executable).parent / "trl"), "grpo", "--help"],
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds: int = parser.parse_args().rounds
    timed: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for i in range(rounds):
        for name, command in COMMANDS.items():
            if name != "trl" or i < 3:  # ten seconds each: three tell enough
                timed[name].append(seconds(command))
    middle = {name: median(values) for name, values in timed.items()}
    to_import, to_trl = middle["validate"] / middle["import"], middle["trl"] / middle["validate"]
    for name, value in middle.items():
        print(f"{name:<10}{value:8.3f} s   {' '.join(COMMANDS[name][1:])}")
    print(f"validate / import  {to_import:6.2f}   (target ≤ 2.5)")
    print(f"trl / validate     {to_trl:6.1f}   (target ≥ 15)")
    return 0 if to_import <= 2.5 and to_trl >= 15 else 1


if __name__ == "__main__":
    sys.exit(main())
