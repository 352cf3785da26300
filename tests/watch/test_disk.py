"""The disk is full under a watch: journal, checkpoints and database at once."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.small_job import write_job
from tests.watch.kit import WatchProcess, rows, until
from tests.watch.test_kills import journaled, recorded
from tests.watch.test_watch import running

LONG = {
    "grpo": {"steps": 100_000},
    "checkpoints": {"every": 20},
    "evaluation": {"every": 100_000},
    "retry": {"max": 1000, "backoff": "1s", "on": ["lost", "disk_full"]},
}


def fill(folder: Path) -> Path:
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)) == 4096:
                pass
    except OSError:
        pass
    return filler


def test_a_full_disk_loses_nothing_and_all_goes_on_when_there_is_room(small_disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    home = small_disk / "home"
    (home / "jobs").mkdir(parents=True)
    (home / "runner.yaml").write_text("min_free_gib: 0.001\n")
    write_job(home, **LONG)
    watch = WatchProcess(home, "--emulate")
    running(watch, "sums-1")
    filler = fill(small_disk)
    # The last word gives room back; whether that is enough for the database, too, is chance.
    until(lambda: not (home / ".runner/runs/sums-1/reserve").exists())
    until(lambda: watch.heard("store_unavailable") or watch.heard("run", run="sums-1", state="held"))
    assert watch.end() == 0, "a watch can leave while the disk is full"
    filler.unlink()
    watch = WatchProcess(home, "--emulate", "--stop-jobs")
    watch.wait_for("run", run="sums-1", state="starting")
    assert rows(home, "SELECT to_state FROM transitions WHERE reason = 'disk_full'") == [("held",)]
    before = rows(home, "SELECT last_step FROM runs")[0][0]
    until(lambda: rows(home, "SELECT last_step FROM runs")[0][0] > before + 20)
    assert watch.end() == 0
    assert recorded(home, "sums-1") == journaled(home, "sums-1")
    steps = [step for (step,) in rows(home, "SELECT step FROM metrics WHERE name = 'reward' ORDER BY step")]
    assert steps == list(range(1, len(steps) + 1))
    assert rows(home, "PRAGMA integrity_check") == [("ok",)]
