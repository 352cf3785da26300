"""The run folder: what lies where. The trainer's whole interface, and enough to restore the database.

run.json          who the run is: id, job, revision, backend, parent, where the job lies
spec.json         the resolved spec, every default written out
live.json         `limits`, where the job's file has had others since
environment.json  what the rewards' `packages:` came to; absent where they run beside the runner
source/           the job's files as submitted: job.yaml, data, recorded completions
rewards/<sha256>/ sources of every reward version; rewards/wanted names the one to use (`runner.rewards.versions`)
journal/0001.jsonl    one file for each attempt
checkpoints/step-000050/  and `best`, a link to the best of them
micro_batch.json  what the TRL backend goes on with after it was out of memory
attempts/0001/    handle.json (the supervisor's pid), trainer.log, exit.json
state.json        how the run stands, once it no longer runs
reserve           room on the disk for the trainer's last word, given back before it
lock              held by supervisor and trainer while they live
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class RunFolder:
    path: Path

    @property
    def run_json(self) -> Path:
        return self.path / "run.json"

    @property
    def spec_json(self) -> Path:
        return self.path / "spec.json"

    @property
    def live_json(self) -> Path:
        return self.path / "live.json"

    @property
    def environment_json(self) -> Path:
        return self.path / "environment.json"

    @property
    def state_json(self) -> Path:
        return self.path / "state.json"

    @property
    def source(self) -> Path:
        return self.path / "source"

    @property
    def rewards(self) -> Path:
        return self.path / "rewards"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> int | None:
        """Step of the checkpoint that is marked as the best; None where none is."""
        link = self.checkpoints / "best"
        return int(link.readlink().name.removeprefix("step-")) if link.is_symlink() else None

    @property
    def micro_batch_json(self) -> Path:
        return self.path / "micro_batch.json"

    @property
    def reserve(self) -> Path:
        return self.path / "reserve"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    def journal(self, attempt: int) -> Path:
        return self.path / "journal" / f"{attempt:04d}.jsonl"

    def attempt(self, attempt: int) -> Path:
        return self.path / "attempts" / f"{attempt:04d}"

    def attempts(self) -> list[int]:
        """Numbers of the attempts that have left a trace, in order."""
        folders = (self.path / "attempts").glob("[0-9]*")
        journals = (self.path / "journal").glob("[0-9]*.jsonl")
        return sorted({int(path.stem) for path in (*folders, *journals)})

    def take_lock(self) -> int | None:
        """Descriptor that holds the run until every process that inherited it is gone; None when somebody holds it.

        Asks the kernel: no lock outlives its processes.
        """
        fd = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Whole or not at all: temporary file, fsync, rename."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The content, or None where there is no (whole) file."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return content
