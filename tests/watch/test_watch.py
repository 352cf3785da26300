"""The whole watch as a process: signals, deaths, two of them, and the runs that outlive it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from runner import api
from runner.journal.folder import read_json
from tests.cli.kit import cli
from tests.small_job import write_job
from tests.watch.kit import WatchProcess, rows, until

LONG = {"grpo": {"steps": 100_000}, "checkpoints": {"every": 200}, "evaluation": {"every": 50_000}}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "jobs").mkdir()
    yield tmp_path
    for handle in tmp_path.glob(".runner/runs/*/attempts/*/handle.json"):
        known = read_json(handle)
        if known and not (handle.parent / "exit.json").exists():
            with suppress(ProcessLookupError):
                os.kill(known["pid"], signal.SIGKILL)


def states(home: Path) -> dict[str, str]:
    return dict(rows(home, "SELECT id, state FROM runs"))


def config(home: Path, text: str) -> None:
    (home / "runner.yaml").write_text(text)


def running(watch: WatchProcess, run_id: str) -> None:
    """Waits until the run has made a step."""
    watch.wait_for("run", run=run_id, state="running")
    until(lambda: rows(watch.home, "SELECT 1 FROM metrics WHERE run_id = ? AND name = 'reward' LIMIT 1", run_id))


def test_once_runs_everything_there_is_and_says_whether_it_went_well(home: Path) -> None:
    write_job(home, name="good")
    write_job(home, name="later", after=["good"])
    assert WatchProcess(home, "--emulate", "--once").wait() == 0
    assert states(home) == {"good-1": "succeeded", "later-1": "succeeded"}
    again = WatchProcess(home, "--emulate", "--once")
    assert again.wait() == 0
    assert again.heard("submitted") == []
    write_job(home, name="bad", emulator={"expect": [{"metric": "reward", "at_least": 99}]})
    assert WatchProcess(home, "--emulate", "--once").wait() == 1
    (home / "jobs/bad/job.yaml").write_text("model: [")
    assert WatchProcess(home, "--emulate", "--once").wait() == 1


def test_a_run_whose_dependency_fails_is_held_and_says_why(home: Path) -> None:
    write_job(home, name="first", emulator={"expect": [{"metric": "reward", "at_least": 99}]})
    write_job(home, name="second", after=["first"])
    assert WatchProcess(home, "--emulate", "--once").wait() == 1
    assert rows(home, "SELECT state, reason, detail FROM runs WHERE job = 'second'") == [
        ("held", "dependency_failed", "after first: first-1 has failed")
    ]


def test_without_a_gpu_a_job_waits_and_says_what_for(home: Path) -> None:
    write_job(home)
    assert WatchProcess(home, "--once").wait() == 1
    assert rows(home, "SELECT state, detail FROM runs") == [("queued", "no GPU; use watch --emulate")]


def test_a_second_watch_exits_75_and_names_the_first(home: Path) -> None:
    first = WatchProcess(home, "--emulate")
    first.wait_for("ready")
    second = cli("watch", "--emulate", "--home", home, cwd=home)
    assert second.returncode == 75
    assert f"is already watched by process {first.process.pid} on " in second.stderr
    assert first.end() == 0
    assert cli("watch", "--emulate", "--once", "--home", home, cwd=home).returncode == 0


def test_a_job_dropped_into_the_folder_runs_and_one_with_higher_priority_goes_first(home: Path) -> None:
    config(home, "capacity: {cpu: 1}\n")
    watch = WatchProcess(home, "--emulate")
    watch.wait_for("ready")
    long = write_job(home, name="long", **LONG)
    running(watch, "long-1")
    write_job(home, name="low")
    watch.wait_for("submitted", job="low")
    write_job(home, name="high", priority=1)
    watch.wait_for("submitted", job="high")
    until(lambda: rows(home, "SELECT detail FROM runs WHERE job = 'low'") == [("waiting for a CPU slot: 1 in use",)])
    long.unlink()
    watch.wait_for("run", run="low-1", state="succeeded")
    order = [said["run"] for said in watch.heard("run", state="starting")]
    assert order == ["long-1", "high-1", "low-1"]
    assert watch.heard("run", run="long-1", state="cancelled")[0]["reason"] == "spec_deleted"
    assert rows(home, "SELECT max(step) = (SELECT last_step FROM runs WHERE job = 'long') FROM checkpoints") == [(1,)]
    assert watch.end() == 0


def test_a_terminated_watch_leaves_its_runs_and_the_next_takes_them_up(home: Path) -> None:
    write_job(home, **LONG)
    first = WatchProcess(home, "--emulate")
    running(first, "sums-1")
    assert first.end(signal.SIGTERM) == 0
    assert first.heard("left_running", runs="sums-1")
    before = rows(home, "SELECT last_step FROM runs")[0][0]
    second = WatchProcess(home, "--emulate")
    second.wait_for("adopted", runs="sums-1")
    until(lambda: rows(home, "SELECT last_step FROM runs")[0][0] > before)
    assert rows(home, "SELECT count(*) FROM attempts") == [(1,)]
    second.end()


def test_a_killed_watch_costs_the_runs_nothing_and_the_next_takes_them_up(home: Path) -> None:
    write_job(home, grpo={"steps": 1500}, checkpoints={"every": 500})
    first = WatchProcess(home, "--emulate")
    running(first, "sums-1")
    first.end(signal.SIGKILL)
    second = WatchProcess(home, "--emulate")
    second.wait_for("adopted", runs="sums-1")
    second.wait_for("run", run="sums-1", state="succeeded")
    assert rows(home, "SELECT count(*) FROM attempts") == [(1,)]
    assert rows(home, "SELECT count(*) FROM metrics WHERE name = 'reward'") == [(1500,)]
    second.end()


def test_a_second_ctrl_c_stops_the_runs_with_a_checkpoint_and_the_next_watch_goes_on(home: Path) -> None:
    write_job(home, **LONG)
    watch = WatchProcess(home, "--emulate")
    running(watch, "sums-1")
    watch.process.send_signal(signal.SIGINT)
    watch.wait_for("left_running")
    assert watch.end(signal.SIGINT) == 0
    [(state, step)] = rows(home, "SELECT state, last_step FROM runs")
    assert (state, rows(home, "SELECT max(step) FROM checkpoints")) == ("queued", [(step,)])
    watch = WatchProcess(home, "--emulate", "--stop-jobs")
    until(lambda: rows(home, "SELECT last_step FROM runs")[0][0] > step)
    assert watch.end(signal.SIGTERM) == 0
    assert rows(home, "SELECT n, resumed_step, outcome FROM attempts") == [(1, None, "stopped"), (2, step, "stopped")]


def test_a_third_signal_ends_the_runs_at_once(home: Path) -> None:
    hang = "import time\ndef right(p, c, example):\n    time.sleep(8)\ndef short(p, c, example):\n    return 0.0\n"
    write_job(home, rewards=hang)
    watch = WatchProcess(home, "--emulate", "--stop-jobs")
    watch.wait_for("run", run="sums-1", state="running")
    watch.process.send_signal(signal.SIGTERM)
    watch.wait_for("stopping")
    began = time.monotonic()
    assert watch.end(signal.SIGTERM) == 0
    assert time.monotonic() - began < 6
    assert states(home) == {"sums-1": "queued"}


def kill_trainer(home: Path, run_id: str = "sums-1") -> None:
    """kill -9 of the supervisor of the run's attempt; its trainer dies with it."""
    handle = max((home / ".runner/runs" / run_id / "attempts").glob("*/handle.json"))
    os.kill(json.loads(handle.read_text())["pid"], signal.SIGKILL)


def test_a_lost_run_is_started_again_from_its_checkpoint(home: Path) -> None:
    write_job(home, grpo={"steps": 1500}, checkpoints={"every": 50}, retry={"backoff": "1s"})
    watch = WatchProcess(home, "--emulate")
    running(watch, "sums-1")
    until(lambda: rows(home, "SELECT 1 FROM checkpoints"))
    kill_trainer(home)
    watch.wait_for("run", run="sums-1", state="held", reason="lost")
    watch.wait_for("run", run="sums-1", state="succeeded")
    [first, second] = rows(home, "SELECT outcome, resumed_step FROM attempts ORDER BY n")
    assert (first, second[0]) == (("lost", None), "finished")
    assert second[1] >= 50
    watch.end()


def test_a_run_that_dies_at_the_same_place_again_and_again_is_held(home: Path) -> None:
    write_job(home, retry={"max": 1, "backoff": "1s"}, **{**LONG, "checkpoints": {"every": 100_000}})
    watch = WatchProcess(home, "--emulate")
    for attempt in (1, 2):
        until(lambda: (home / f".runner/runs/sums-1/attempts/000{attempt}/handle.json").exists())  # noqa: B023
        kill_trainer(home)
    said = watch.wait_for("run", run="sums-1", state="held", reason="crash_loop")
    assert said["detail"].startswith("lost 2 times in a row from the start, without a new checkpoint")
    watch.end()


def test_five_hundred_files_are_all_seen_though_the_kernel_drops_their_notifications(home: Path) -> None:
    """Its queue takes `max_queued_events`; more come while the watch stands still, two files in turn, since equal
    neighbours are one event."""
    watch = WatchProcess(home, "--emulate")
    watch.wait_for("ready")
    watch.process.send_signal(signal.SIGSTOP)
    for name in ("one.txt", "two.txt"):
        (home / "jobs" / name).touch()
    for _ in range(int(Path("/proc/sys/fs/inotify/max_queued_events").read_text()) // 2 + 1):
        os.utime(home / "jobs/one.txt")
        os.utime(home / "jobs/two.txt")
    for i in range(500):
        (home / f"jobs/job{i:03}.yaml").write_text(f"model: x{i}\nrewards: none\n")
    watch.process.send_signal(signal.SIGCONT)
    until(lambda: rows(home, "SELECT count(*) FROM jobs WHERE state = 'invalid'") == [(500,)], 120)
    assert watch.end() == 0
    assert "overflow" in (home / "watch.stderr").read_text().lower()


def test_a_damaged_database_is_moved_aside_and_made_anew_from_the_run_folders(home: Path) -> None:
    write_job(home)
    assert WatchProcess(home, "--emulate", "--once").wait() == 0
    before = rows(home, "SELECT run_id, step, name, value FROM metrics ORDER BY 1, 2, 3")
    database = home / ".runner/runner.db"
    whole = database.read_bytes()
    database.write_bytes(whole[:4096] + b"\xff" * 20_000 + whole[24_096:])
    for side in ("-wal", "-shm"):
        (home / f".runner/runner.db{side}").unlink(missing_ok=True)
    watch = WatchProcess(home, "--emulate", "--once")
    assert watch.wait() == 0
    assert watch.heard("database_rebuilt")[0]["runs"] == 1
    assert watch.heard("submitted") == []
    assert rows(home, "SELECT run_id, step, name, value FROM metrics ORDER BY 1, 2, 3") == before
    assert list((home / ".runner").glob("runner.db.*.old"))


def test_a_full_disk_starts_nothing_and_says_what_it_needs(home: Path) -> None:
    config(home, "min_free_gib: 1000000\n")
    write_job(home)
    watch = WatchProcess(home, "--emulate")
    watch.wait_for("disk")
    detail = "disk: 1000000.0 GiB needed; `runner prune` makes room"
    until(lambda: rows(home, "SELECT state, detail FROM runs") == [("queued", detail)])
    watch.end()


def test_a_run_that_falls_silent_raises_an_alert_and_goes_on(home: Path) -> None:
    config(home, "stalled_after: 1s\n")
    hang = "import time\ndef right(p, c, example):\n    time.sleep(30)\ndef short(p, c, example):\n    return 0.0\n"
    write_job(home, rewards=hang)
    watch = WatchProcess(home, "--emulate", "--stop-jobs")
    alert = watch.wait_for("alert", code="stalled")
    assert alert["run"] == "sums-1" and alert["message"].startswith("nothing recorded and nothing printed for")
    assert rows(home, "SELECT run_id, code FROM alerts") == [("sums-1", "stalled")]
    watch.process.send_signal(signal.SIGTERM)
    watch.wait_for("stopping")
    watch.end(signal.SIGTERM)


def test_the_database_is_copied_while_the_watch_runs(home: Path) -> None:
    config(home, "backup_every: 1s\n")
    watch = WatchProcess(home, "--emulate")
    backups = home / ".runner/backups"
    until(lambda: len(list(backups.glob("runner-*.db"))) == 3)
    time.sleep(2.5)
    assert len(list(backups.glob("runner-*.db"))) == 3
    watch.end()


def test_metrics_are_served_on_the_loopback_address(home: Path) -> None:
    write_job(home)
    watch = WatchProcess(home, "--emulate", "--metrics-port", "0")
    address = watch.wait_for("metrics")["address"]
    assert address.startswith("http://127.0.0.1:")
    watch.wait_for("run", run="sums-1", state="succeeded")
    with urllib.request.urlopen(address, timeout=10) as answer:
        text = answer.read().decode()
    assert 'runner_runs{state="succeeded",backend="emulator"} 1' in text.splitlines()
    assert "runner_jobs 1" in text.splitlines()
    with urllib.request.urlopen(address.replace("/metrics", "/healthz"), timeout=10) as answer:
        assert answer.status == 200
    watch.end()


def test_a_command_is_told_how_runs_end(home: Path) -> None:
    told = home / "told"
    config(home, f"notify: [{{command: [sh, -c, 'cat >> {told}; echo >> {told}'], on: [succeeded]}}]\n")
    write_job(home)
    assert WatchProcess(home, "--emulate", "--once").wait() == 0
    [line] = told.read_text().splitlines()
    said: dict[str, Any] = json.loads(line)
    assert (said["event"], said["run"], said["state"], said["detail"]) == (
        "run",
        "sums-1",
        "succeeded",
        "step 20 of 20",
    )


def test_a_wrong_configuration_is_told_with_its_line(home: Path) -> None:
    config(home, "capacity: {cpu: 1}\nmin_free: 3\n")
    done = cli("watch", "--emulate", "--home", home, cwd=home)
    assert done.returncode == 2
    assert "runner.yaml:2:1: error[unknown-field] min_free: no such field" in done.stderr
    assert "did you mean `min_free_gib`?" in done.stderr


def test_the_unit_for_systemd_leaves_the_runs_alone_when_it_is_restarted(home: Path) -> None:
    done = cli("watch", "--emulate", "--systemd", "--home", home, cwd=home)
    assert "KillMode=process" in done.stdout
    assert f"-m runner.cli watch --home {home} --emulate" in done.stdout
    if subprocess.run(["which", "systemd-analyze"], capture_output=True).returncode == 0:
        unit = home / "runner-watch.service"
        unit.write_text(done.stdout)
        checked = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
        assert "Unknown" not in checked.stderr


def test_a_run_started_by_hand_while_a_watch_looks_is_followed_to_its_end(home: Path) -> None:
    watch = WatchProcess(home, "--emulate")
    watch.wait_for("ready")
    job = write_job(home.parent / f"{home.name}-elsewhere")
    for _ in range(3):
        assert api.emulate(job, home=home).state == "succeeded"
    watch.end()
