"""kill -9 at random moments, of the watch, of supervisors, trainers and reward workers: what must hold all the same."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from runner import api
from runner.journal.log import read
from tests.small_job import write_job
from tests.watch.kit import WatchProcess, rows, until

JOBS = ("a", "b", "shot")
"""Of the last, reward workers are shot too: their calls are recorded as `killed`, so its figures are its own."""
SPEC = {
    "grpo": {"steps": 120},
    "checkpoints": {"every": 5},
    "evaluation": {"every": 20},
    "retry": {"max": 1_000_000, "backoff": "1s"},
}
DONE = ("succeeded", "superseded")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kills", "seed"), [(30, 11), *(pytest.param(250, seed, marks=pytest.mark.soak) for seed in (1, 2, 3, 4))]
)
def test_whatever_is_killed_every_job_runs_to_its_end_exactly_once(tmp_path: Path, kills: int, seed: int) -> None:
    home, luck = tmp_path / "home", random.Random(seed)
    (home / "jobs").mkdir(parents=True)
    (home / "runner.yaml").write_text("capacity: {cpu: 3}\n")
    seeds = dict.fromkeys(JOBS, 0)
    for name in JOBS:
        write_job(home, name=name, priority=int(name == "shot"), **SPEC)
    watch = WatchProcess(home, "--emulate")
    watch.wait_for("ready")
    shot: dict[str, int] = {}
    for _ in range(kills):
        kind = luck.choice(["watch", "supervisor", "trainer", "worker"])
        shot[kind] = shot.get(kind, 0) + shoot(home, watch, kind, luck, seeds)
        if kind == "watch":
            watch.wait()
            watch = WatchProcess(home, "--emulate")
        never_twice(home)
        edit_something(home, seeds)
    print(shot)
    assert min(shot.values()) > 0 and sum(shot.values()) > kills / 2
    until(lambda: is_done(home, seeds), 200)
    assert watch.end() == 0
    check(home, seeds, tmp_path / "undisturbed")


def shoot(home: Path, watch: WatchProcess, kind: str, luck: random.Random, seeds: dict[str, int]) -> bool:
    """Kills one of that kind at a random moment. Whether there was one, within a few seconds."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        time.sleep(luck.uniform(0.0, 0.6))
        found = [watch.process.pid] if kind == "watch" else sorted(pid for pid, _ in processes(home, kind))
        if found:
            with suppress(ProcessLookupError):
                os.kill(luck.choice(found), signal.SIGKILL)
                return True
        edit_something(home, seeds)
    return False


def processes(home: Path, kind: str) -> Iterator[tuple[int, str]]:
    """(pid, run) of the home's processes of that kind. (What a trainer has just forked still looks like it.)"""
    module = {"supervisor": "runner.queue.supervise", "trainer": "runner.backends", "worker": "runner.backends"}[kind]
    runs = str(home / ".runner/runs")
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            words = (
                (entry / "cmdline").read_bytes().decode(errors="replace").split("\0") if entry.name.isdecimal() else []
            )
            if module in words and words[words.index(module) + 1].startswith(runs) and not is_zombie(entry):
                run = Path(words[words.index(module) + 1]).name
                if kind == "supervisor" or (kind == "trainer" and not is_forked_by(module, entry)):
                    yield int(entry.name), run
                elif kind == "worker" and run.startswith("shot"):
                    yield from ((pid, run) for zygote in children(entry) for pid in children(Path(f"/proc/{zygote}")))


def is_forked_by(module: str, entry: Path) -> bool:
    """Whether the process is a child of one that runs the module, too."""
    parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
    return module in Path(f"/proc/{parent}/cmdline").read_bytes().decode(errors="replace").split("\0")


def is_zombie(entry: Path) -> bool:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


def children(entry: Path) -> list[int]:
    return [int(pid) for pid in (entry / f"task/{entry.name}/children").read_text().split()]


def never_twice(home: Path) -> None:
    """I2: no run has two supervisors or two trainers, ever. (A process that is just being forked looks like its parent:
    counted are those that two looks find.)"""
    for kind in ("supervisor", "trainer"):
        busy = set(processes(home, kind))
        if len(busy) > len({run for _, run in busy}):
            time.sleep(0.3)
            busy &= set(processes(home, kind))
        assert len(busy) == len({run for _, run in busy}), (kind, busy)


def edit_something(home: Path, seeds: dict[str, int]) -> None:
    """Keeps the watch busy: a job whose run is over gets another seed."""
    latest = dict(rows(home, "SELECT job, state FROM runs ORDER BY number"))
    for name, state in latest.items():
        path = home / f"jobs/{name}/job.yaml"
        written = f"\nseed: {seeds[name]}\n"
        if (
            state == "succeeded"
            and rows(home, "SELECT spec ->> '$.seed' FROM runs WHERE job = ?", name)[-1][0] == seeds[name]
        ):
            seeds[name] += 1
            text = path.read_text().replace(written, "")
            part = path.with_name(".job.yaml.part")
            part.write_text(f"{text}\nseed: {seeds[name]}\n")
            part.replace(path)


def is_done(home: Path, seeds: dict[str, int]) -> bool:
    """Whether every file's last version has succeeded, and nothing else waits or runs."""
    done = rows(home, "SELECT job, spec ->> '$.seed' FROM runs WHERE state = 'succeeded'")
    succeeded = {(job, int(seed)) for job, seed in done}
    return set(seeds.items()) <= succeeded and all(state in DONE for (state,) in rows(home, "SELECT state FROM runs"))


def check(home: Path, seeds: dict[str, int], elsewhere: Path) -> None:
    runs = rows(home, "SELECT id, job, revision, state, digest FROM runs")
    done = [(job, revision) for _, job, revision, state, _ in runs if state == "succeeded"]
    assert len(done) == len(set(done)), "I1: a revision succeeds once"
    last = {name: max(int(seed) for (seed,) in rows(home, SEEDS, name)) for name in JOBS}
    assert last == seeds, "I3: every file has its run"
    final = "('succeeded', 'failed', 'cancelled', 'timed_out', 'superseded')"
    assert rows(home, f"SELECT * FROM transitions WHERE from_state IN {final}") == [], "I4: final states stay"
    for run_id, *_ in runs:
        assert recorded(home, run_id) == journaled(home, run_id), "I5: what was written is what is there"
        steps = [
            step for (step,) in rows(home, "SELECT step FROM metrics WHERE run_id = ? AND name = 'reward'", run_id)
        ]
        assert steps in ([], list(range(1, 121)))
    assert list(processes(home, "supervisor")) == list(processes(home, "trainer")) == [], "I6, I7: nobody is left"
    assert rows(home, "PRAGMA integrity_check") == [("ok",)], "I8"
    for name in ("a", "b"):
        for run_id, digest in rows(
            home, "SELECT id, digest FROM runs WHERE job = ? AND state = 'succeeded' LIMIT 2", name
        ):
            seed = rows(home, "SELECT spec ->> '$.seed' FROM runs WHERE id = ?", run_id)[0][0]
            whole = api.emulate(home / f"jobs/{name}", home=elsewhere_of(elsewhere), overrides=[f"seed={seed}"])
            assert whole.row.digest == digest, f"{run_id} is not what it would have been"


SEEDS = "SELECT spec ->> '$.seed' FROM runs WHERE job = ? AND state = 'succeeded'"


def elsewhere_of(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path


def recorded(home: Path, run_id: str) -> list[tuple[int, int]]:
    return rows(home, "SELECT attempt, seq FROM events WHERE run_id = ? AND attempt > 0 ORDER BY 1, 2", run_id)


def journaled(home: Path, run_id: str) -> list[tuple[int, int]]:
    journals = sorted((home / f".runner/runs/{run_id}/journal").glob("*.jsonl"))
    return [(int(path.stem), event.seq) for path in journals for event, _ in read(path)]
