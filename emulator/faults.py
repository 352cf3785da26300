"""Faults on purpose: what a run must survive, made to happen at a chosen step (`emulator.faults`).

Each happens once in the life of a run: it is noted on the disk, in `faults.json` of the run folder, before it strikes,
so the attempt that is resumed behind it passes the step.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from runner.journal.folder import read_json, write_json
from runner.spec.model import Fault

FILE = "faults.json"
HANG_SECONDS = 3600.0
"""At a time, again and again."""


class Faults:
    """The faults of a job that have not happened yet in this run."""

    def __init__(self, faults: Sequence[Fault], folder: Path) -> None:
        self._file = folder / FILE
        self._faults = faults
        happened: list[int] = (read_json(self._file) or {}).get("happened", [])
        self._happened = happened

    def before_scoring(self, step: int) -> None:
        """`lost_reward_worker`: one of the processes that are about to be given calls is gone."""
        for fault in self._due(step, ("lost_reward_worker",)):
            self._note(fault)
            for pid in _grandchildren(os.getpid())[:1]:
                os.kill(pid, signal.SIGKILL)

    def before_update(self, step: int, advantages: Sequence[float]) -> Sequence[float]:
        """Whatever else is due. Gives the advantages to train on, which a `nan` spoils."""
        for fault in self._due(step, ("crash", "kill", "hang", "nan", "out_of_memory", "disk_full", "slow_step")):
            self._note(fault)
            if fault.kind == "nan":
                advantages = [float("nan")] * len(advantages)
            else:
                _strike(fault)
        return advantages

    def _due(self, step: int, kinds: Sequence[str]) -> list[Fault]:
        return [
            fault
            for i, fault in enumerate(self._faults)
            if fault.at_step == step and fault.kind in kinds and i not in self._happened
        ]

    def _note(self, fault: Fault) -> None:
        self._happened.append(next(i for i, item in enumerate(self._faults) if item is fault))
        write_json(self._file, {"happened": self._happened})


def _strike(fault: Fault) -> None:
    match fault.kind:
        case "crash":
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.abort()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            while True:
                time.sleep(HANG_SECONDS)
        case "out_of_memory":
            raise MemoryError(f"the fault of step {fault.at_step}: out of memory")
        case "disk_full":
            raise OSError(errno.ENOSPC, f"the fault of step {fault.at_step}: no space left on the disk")
        case _:
            time.sleep(fault.seconds)


def _grandchildren(pid: int) -> list[int]:
    """Processes of our child processes: the reward workers, whose parent is their zygote. Linux; none elsewhere."""
    return [worker for child in _children(pid) for worker in _children(child)]


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
