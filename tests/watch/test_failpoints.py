"""Every failpoint, as a kill, as a defect and as a full disk: the folder's jobs run to their end all the same."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from runner.journal.failpoints import ACTIONS, NAMES
from runner.queue.home import Home
from runner.store.rebuild import is_due
from tests.cli.kit import command, environment
from tests.small_job import write_job
from tests.watch.kit import WatchProcess, rows
from tests.watch.test_kills import journaled, recorded

JOBS = ("a", "b", "c")
SPEC = {
    "grpo": {"steps": 30},
    "retry": {"max": 1000, "backoff": "1s", "on": ["lost", "disk_full"]},
}
IN_THE_WATCH = [name for name in NAMES if name != "store.rebuilt"]


def armed(folder: Path, action: str, names: list[str]) -> str:
    folder.mkdir()
    return ",".join(f"{name}:{action}:{folder / name}" for name in names)


def test_every_failpoint_stands_in_the_source_once() -> None:
    root = Path(__file__).parents[2] / "runner"
    text = "".join(path.read_text() for path in root.rglob("*.py"))
    assert {name: text.count(f'failpoint("{name}")') for name in NAMES} == dict.fromkeys(NAMES, 1)


@pytest.mark.parametrize("action", ACTIONS)
def test_wherever_it_fails_every_job_runs_to_its_end_exactly_once(tmp_path: Path, action: str) -> None:
    home, proofs = tmp_path / "home", tmp_path / "proofs"
    (home / "jobs").mkdir(parents=True)
    (home / "runner.yaml").write_text("capacity: {cpu: 3}\n")
    texts = {name: write_job(home, name=name, **SPEC).read_text() for name in JOBS}
    points = {"RUNNER_FAILPOINTS": armed(proofs, action, IN_THE_WATCH)}
    seeds = dict.fromkeys(JOBS, 0)
    watch = WatchProcess(home, "--emulate", **points)
    deadline = time.monotonic() + 150
    while not is_done(home, seeds) or len(list(proofs.iterdir())) < len(IN_THE_WATCH):
        assert time.monotonic() < deadline, (rows(home, "SELECT id, state, detail FROM runs"), list(proofs.iterdir()))
        if watch.process.poll() is not None:
            watch = WatchProcess(home, "--emulate", **points)
        if len(list(proofs.iterdir())) < len(IN_THE_WATCH):
            edit_what_has_ended(home, texts, seeds, ("failed", "succeeded"))
        else:
            edit_what_has_ended(home, texts, seeds, ("failed",))
        (home / "jobs/.wakes-the-watch").touch()  # out of the pause that follows a full disk
        time.sleep(0.1)
    assert watch.end() == 0
    check(home, action)


def states(home: Path) -> dict[str, tuple[str, int]]:
    """Job → state and seed of its latest run."""
    if not (home / ".runner/runner.db").exists():
        return {}
    try:
        found = rows(home, "SELECT job, state, spec ->> '$.seed' FROM runs ORDER BY number")
    except Exception as error:  # the watch died while it made the tables
        assert "no such table" in str(error)
        return {}
    return {job: (state, int(seed)) for job, state, seed in found}


def is_done(home: Path, seeds: dict[str, int]) -> bool:
    return states(home) == {name: ("succeeded", seed) for name, seed in seeds.items()}


def edit_what_has_ended(home: Path, texts: dict[str, str], seeds: dict[str, int], how: tuple[str, ...]) -> None:
    """A defect ends a run for good, so its job is edited; and one that has succeeded makes room for further hits."""
    for name, (state, seed) in states(home).items():
        if state in how and seed == seeds[name]:
            seeds[name] += 1
            part = home / f".{name}.part"
            part.write_text(f"{texts[name]}seed: {seeds[name]}\n")
            part.replace(home / f"jobs/{name}/job.yaml")


def check(home: Path, action: str) -> None:
    runs = rows(home, "SELECT id, job, revision, state, reason, digest FROM runs")
    done = [(job, revision) for _, job, revision, state, *_ in runs if state == "succeeded"]
    assert len(done) == len(set(done)), "a revision succeeds once"
    failed = {reason for *_, state, reason, _ in runs if state not in ("succeeded", "superseded")}
    assert failed <= ({"internal"} if action == "raise" else set())
    for run_id, *_ in runs:
        assert recorded(home, run_id) == journaled(home, run_id), "what was written is what is there"
    digests = {digest for _, _, _, state, _, digest in runs if state == "succeeded"}
    assert len(digests) == len(seeds_of(home)), "cut off or not, equal jobs come out equal"
    assert rows(home, "PRAGMA integrity_check") == [("ok",)]


def seeds_of(home: Path) -> set[int]:
    """Jobs of one seed are equal but for their name, so their digests are, however often they were cut off."""
    return {seed for (seed,) in rows(home, "SELECT DISTINCT spec ->> '$.seed' FROM runs WHERE state = 'succeeded'")}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_restoration_that_is_cut_off_is_made_again_by_the_next_watch(tmp_path: Path, action: str) -> None:
    (tmp_path / "home/jobs").mkdir(parents=True)
    home = Home(tmp_path / "home")
    write_job(home.path)
    assert WatchProcess(home.path, "--emulate", "--once").wait() == 0
    before = rows(home.path, "SELECT run_id, name, step, value FROM metrics ORDER BY 1, 2, 3")
    points = {"RUNNER_FAILPOINTS": armed(tmp_path / "proofs", action, ["store.rebuilt"])}
    cut_off = subprocess.run(command("db", "rebuild", "--home", home.path), env=environment() | points, check=False)
    assert cut_off.returncode != 0 and is_due(home.database)
    watch = WatchProcess(home.path, "--emulate", "--once")
    assert watch.wait() == 0
    assert watch.heard("database_rebuilt")[0]["runs"] == 1 and watch.heard("submitted") == []
    assert not is_due(home.database)
    assert rows(home.path, "SELECT run_id, name, step, value FROM metrics ORDER BY 1, 2, 3") == before
