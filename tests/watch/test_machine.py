"""GPUs as nvidia-smi tells of them, and file systems that are refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.api import EnvironmentUnfit
from runner.queue import local
from runner.queue.home import Home
from runner.queue.jobs import check, load_job
from runner.queue.submit import submit
from runner.watch import machine
from runner.watch.admission import Admission
from runner.watch.config import Config
from runner.watch.daemon import Options, Watch
from runner.watch.log import Log
from tests.small_job import write_job
from tests.watch.kit import Folder, until

Answer = Callable[[str, str], None]


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """An nvidia-smi that gives these answers."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def answer(gpus: str, processes: str) -> None:
        script = tmp_path / "bin" / "nvidia-smi"
        script.parent.mkdir(exist_ok=True)
        text = f'#!/bin/sh\ncase "$1" in --query-gpu*) printf "{gpus}";; *) printf "{processes}";; esac\n'
        script.write_text(text)
        script.chmod(0o755)

    return answer


def test_gpus_are_counted_and_without_nvidia_smi_there_is_none(nvidia_smi: Answer) -> None:
    assert machine.gpus() == 0 if not Path("/usr/bin/nvidia-smi").exists() else True
    nvidia_smi(r"0\n1\n", "")
    assert machine.gpus() == 2


def test_processes_on_the_gpu_are_told_with_their_memory(nvidia_smi: Answer) -> None:
    nvidia_smi(r"0\n", r"4711, /usr/bin/python3, 3021 MiB\n")
    assert [str(process) for process in machine.gpu_processes()] == ["process 4711 (python3, 3021 MiB)"]


def sleeper(**env: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(["sleep", "60"], env={**os.environ, **env})
    while b"sleep" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
        time.sleep(0.01)
    return process


def test_what_is_left_of_a_run_that_is_over_is_killed_and_others_are_not(tmp_path: Path, nvidia_smi: Answer) -> None:
    home = Home(tmp_path)
    for run_id in ("over-1", "alive-1"):
        home.run(run_id).path.mkdir(parents=True)
    lock = home.run("alive-1").take_lock()
    left, alive, foreign = sleeper(RUNNER_RUN_ID="over-1"), sleeper(RUNNER_RUN_ID="alive-1"), sleeper()
    try:
        lines = "".join(rf"{process.pid}, sleep, 1 MiB\n" for process in (left, alive, foreign))
        nvidia_smi(r"0\n", lines)
        remaining = machine.end_leftovers(home, machine.gpu_processes())
        assert [process.pid for process in remaining] == [alive.pid, foreign.pid]
        assert left.wait(10) == -9
        assert (alive.poll(), foreign.poll()) == (None, None)
    finally:
        for process in (left, alive, foreign):
            process.kill()
            process.wait()
        assert lock is not None
        os.close(lock)


def test_a_gpu_that_somebody_else_uses_is_waited_for_and_named(tmp_path: Path, nvidia_smi: Answer) -> None:
    folder, home = Folder(tmp_path), Home(tmp_path)
    submit(folder.store, check(load_job(write_job(tmp_path)), "trl"))
    nvidia_smi(r"0\n", rf"{os.getpid()}, python, 3021 MiB\n")
    log = Log(write=lambda line: None)
    config = Config(min_free_gib=0)
    admission = Admission(home, folder.store, folder.desk, folder.keeper, config, log)
    waiting = admission.admit([])
    assert (waiting.runs, waiting.stuck) == (1, 0)
    assert folder.store.run("sums-1").detail == f"the GPU is in use by process {os.getpid()} (python, 3021 MiB)"
    folder.close()


def test_a_waiting_run_whose_folder_is_gone_says_so_and_holds_nobody_up(tmp_path: Path, nvidia_smi: Answer) -> None:
    folder, home = Folder(tmp_path), Home(tmp_path)
    for name in ("gone", "free"):
        submit(folder.store, check(load_job(write_job(tmp_path, name=name)), "emulator"))
    shutil.rmtree(home.run("gone-1").path)
    config, log = Config(min_free_gib=0), Log(write=lambda line: None)
    waiting = Admission(home, folder.store, folder.desk, folder.keeper, config, log).admit([])
    assert (waiting.runs, waiting.stuck) == (1, 1)
    assert folder.store.run("gone-1").detail.startswith("its folder is gone; `runner cancel gone-1`")
    local.cancel(home, folder.store, "gone-1")
    local.cancel(home, folder.store, "free-1")
    until(lambda: not folder.keeper.look())
    assert folder.runs() == [("gone-1", "cancelled"), ("free-1", "cancelled")]
    folder.close()


@pytest.mark.parametrize("kind", ["nfs4", "fuse.sshfs"])
def test_a_watch_over_a_network_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "jobs").mkdir()
    monkeypatch.setattr(machine, "file_system", lambda folder: kind)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    with pytest.raises(EnvironmentUnfit, match=rf"network file system \({kind}\)"):
        Watch(Home(tmp_path), Options(), Log(write=lambda line: None))


def test_a_folder_that_never_had_jobs_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnfit, match=r"jobs is not there\. `runner init` makes it"):
        Watch(Home(tmp_path), Options(), Log(write=lambda line: None))


def test_network_file_systems_are_known_by_name() -> None:
    assert [machine.is_network(kind) for kind in ("nfs4", "cifs", "fuse.sshfs", "9p")] == [True] * 4
    assert [machine.is_network(kind) for kind in ("ext4", "overlay", "tmpfs", "fuse.gocryptfs", "")] == [False] * 5


def test_the_file_system_of_a_folder_is_that_of_the_mount_it_is_in(small_disk: Path, tmp_path: Path) -> None:
    assert machine.file_system(small_disk) == "tmpfs"
    assert machine.file_system(Path("/proc/self")) == "proc"
