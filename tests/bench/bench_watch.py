"""What the watch itself costs: many files at once, an idle folder, many short jobs.

    python -m tests.bench.bench_watch [--specs 20000] [--idle 1000] [--jobs 100] [--deaths 5]      (0 leaves a part out)

1. Job files dropped as fast as they can be written: none may be missed. Seconds until all are judged, peak memory.
2. An idle watch over a folder of finished jobs: its share of one core. Target: at most 1 %.
3. Replayed jobs through the folder, one after another: jobs a minute, and the watch's share of the processor time.
4. A watch with a run is killed: seconds from the start of the next one until it has taken the run up. Target: 2.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.cli.kit import command, environment
from tests.small_job import write_job
from tests.watch.kit import WatchProcess

TICKS = os.sysconf("SC_CLK_TCK")


def home_with(folder: Path) -> str:
    """A home with the data of one small job directly in `jobs/`; gives the job's text."""
    template = write_job(folder / "template", name="x", grpo={"steps": 5}, evaluation={"every": 5})
    jobs = folder / "jobs"
    jobs.mkdir()
    for name in ("data.jsonl", "completions.jsonl", "rewards.py"):
        shutil.copy(template.parent / name, jobs / name)
    return template.read_text()


def watch(home: Path, *args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command("watch", "--emulate", "--json", "--ui-port", "0", "--home", home, *args),
        stdout=subprocess.DEVNULL,
        env=environment(),
    )


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def count(home: Path, sql: str) -> int:
    with sqlite3.connect(f"file:{home}/.runner/runner.db?mode=ro", uri=True, timeout=30) as db:
        return int(db.execute(sql).fetchone()[0])


def wait_for(home: Path, sql: str, wanted: int, seconds: float = 3600) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if count(home, sql) >= wanted:
                return
        except sqlite3.OperationalError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"{sql}: {count(home, sql)} of {wanted} after {seconds} s")


def drop(home: Path, specs: int) -> None:
    """Valid jobs, that wait for a dependency that never comes, so that only the folder's side is measured."""
    text = home_with(home) + "after: [never]\n"
    process = watch(home)
    wait_for(home, "SELECT 1", 1)
    began = time.monotonic()
    for i in range(specs):
        (home / "jobs" / f"job{i:05}.yaml").write_text(text)
    written = time.monotonic() - began
    wait_for(home, "SELECT count(*) FROM jobs", specs)
    judged = time.monotonic() - began
    runs = count(home, "SELECT count(DISTINCT job) FROM runs WHERE state = 'queued'")
    print(f"dropped   {specs} files in {written:.1f} s; judged and queued {runs} in {judged:.1f} s", end="")
    print(
        f" ({specs / judged:.0f}/s), {cpu_seconds(process.pid):.1f} s of processor, "
        f"peak {peak_mib(process.pid):.0f} MiB"
    )
    if runs != specs:
        raise SystemExit(f"{specs - runs} missed")
    end(process)


def idle(home: Path, jobs: int) -> float:
    text = home_with(home) + "after: [never]\n"
    for i in range(jobs):
        folder = home / "jobs" / f"job{i:04}"
        folder.mkdir()
        for name in ("data.jsonl", "completions.jsonl", "rewards.py"):
            os.link(home / "jobs" / name, folder / name)
        (folder / "job.yaml").write_text(text)
    process = watch(home)
    wait_for(home, "SELECT count(*) FROM jobs", jobs)
    with sqlite3.connect(home / ".runner/runner.db", timeout=30) as db:
        db.execute("UPDATE runs SET state = 'succeeded', reason = 'finished', ended_at = 1")
    time.sleep(5)
    before, began = cpu_seconds(process.pid), time.monotonic()
    time.sleep(30)
    share = (cpu_seconds(process.pid) - before) / (time.monotonic() - began)
    print(f"idle      {jobs} jobs in folders: {100 * share:.2f} % of a core   (target ≤ 1 %)")
    end(process)
    return share


def through(home: Path, jobs: int) -> None:
    text = home_with(home)
    (home / "runner.yaml").write_text("capacity: {cpu: 1}\n")
    for i in range(jobs):
        (home / "jobs" / f"job{i:04}.yaml").write_text(text)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    process = watch(home)
    wait_for(home, "SELECT count(*) FROM runs WHERE state = 'succeeded'", jobs)
    took, own = time.monotonic() - began, cpu_seconds(process.pid)
    end(process)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"through   {jobs} replayed jobs in {took:.1f} s: {60 * jobs / took:.0f} a minute", end="")
    print(f"; the watch used {own:.1f} s of processor, {100 * own / max(total, own):.0f} % of all")


def adoption(home: Path, deaths: int) -> float:
    write_job(home, name="long", grpo={"steps": 100_000}, checkpoints={"every": 1000}, evaluation={"every": 100_000})
    watching = WatchProcess(home, "--emulate")
    watching.wait_for("run", run="long-1", state="running")
    took: list[float] = []
    for _ in range(deaths):
        time.sleep(2)
        watching.end(signal.SIGKILL)
        began = time.time()
        watching = WatchProcess(home, "--emulate")
        took.append(watching.wait_for("adopted", runs="long-1")["at"] - began)
    watching.process.send_signal(signal.SIGINT)
    watching.wait_for("left_running")
    watching.end(signal.SIGINT)
    middle = statistics.median(took)
    print(f"adoption  {deaths} times: median {middle:.2f} s, at most {max(took):.2f} s   (target ≤ 2 s)")
    return middle


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(60)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--specs", type=int, default=20_000)
    parser.add_argument("--idle", type=int, default=1_000)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--deaths", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-watch-") as place:
        home = Path(place)
        for name in ("through", "idle", "drop", "adoption"):
            (home / name).mkdir()
        took = adoption(home / "adoption", options.deaths) if options.deaths else 0.0
        if options.jobs:
            through(home / "through", options.jobs)
        share = idle(home / "idle", options.idle) if options.idle else 0.0
        if options.specs:
            drop(home / "drop", options.specs)
    return 0 if share <= 0.01 and took <= 2 else 1


if __name__ == "__main__":
    sys.exit(main())
