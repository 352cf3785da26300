"""What this machine offers: GPUs and who uses them, room on the disk, a file system that can be trusted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from runner.queue.home import Home

NVIDIA_SMI_SECONDS = 20.0
NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "beegfs", "gpfs", "davfs"}
)
"""File systems on which SQLite's write-ahead log, flock or notifications can't be relied on; also as `fuse.<name>`."""


@dataclass(frozen=True, slots=True)
class GpuProcess:
    pid: int
    name: str
    memory: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name}, {self.memory})"


def gpus() -> int:
    """GPUs that nvidia-smi lists; none where there is no nvidia-smi or it gives no answer."""
    return len(_nvidia_smi("--query-gpu=index"))


def gpu_processes() -> list[GpuProcess]:
    """Processes that hold memory of a GPU."""
    found: list[GpuProcess] = []
    for line in _nvidia_smi("--query-compute-apps=pid,name,used_memory"):
        pid, _, rest = line.partition(",")
        name, _, memory = rest.rpartition(",")
        if pid.strip().isdecimal():
            found.append(GpuProcess(int(pid), Path(name.strip()).name, memory.strip()))
    return found


def _nvidia_smi(query: str) -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def end_leftovers(home: Home, processes: list[GpuProcess]) -> list[GpuProcess]:
    """Kills processes on the GPU that come from a run of this home which is over; gives the ones that remain.

    vLLM's engine processes can outlive their parents; every process of a run carries its id in the environment.
    """
    remaining: list[GpuProcess] = []
    for process in processes:
        run_id = _run_of(process.pid)
        if run_id is None or not home.run(run_id).path.is_dir() or _is_alive(home, run_id):
            remaining.append(process)
        else:
            os.kill(process.pid, signal.SIGKILL)
    return remaining


def _run_of(pid: int) -> str | None:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # gone, another user's, or of another pid namespace
        return None
    for item in environment.split(b"\0"):
        if item.startswith(b"RUNNER_RUN_ID="):
            return os.fsdecode(item.partition(b"=")[2])
    return None


def _is_alive(home: Home, run_id: str) -> bool:
    lock = home.run(run_id).take_lock()
    if lock is None:
        return True
    os.close(lock)
    return False


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def file_system(folder: Path) -> str:
    """The type of the file system that the folder is on; empty where the kernel doesn't tell."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    place = folder.resolve()
    best, kind = -1, ""
    for line in mounts:
        fields = line.split(" ")
        point = Path(fields[4].replace("\\040", " "))
        if place.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[fields.index("-") + 1]
    return kind


def is_network(kind: str) -> bool:
    return kind in NETWORK or (kind.startswith("fuse.") and kind.removeprefix("fuse.") in NETWORK | {"sshfs", "s3fs"})
