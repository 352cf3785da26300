"""What a submission is made of: the record of the run, its id, its folder."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from runner.journal.folder import RunFolder
from runner.store import records

FILLERS = 4
"""Run folders that are filled at a time; most of it is waiting for the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What is known of a run when it is put in the queue."""

    job: str
    revision: str
    backend: str
    emulated: bool
    spec: str
    """The resolved job as JSON text; kept byte for byte."""
    total_steps: int
    priority: int = 0
    """Higher goes first; equal ones in the order of submission."""
    parent: str | None = None
    """Id of the run whose checkpoint it starts from."""
    fill: Callable[[RunFolder], None] | None = None
    """Puts everything but the store's own records into the run folder."""


def next_folder(conn: sqlite3.Connection, job: str, runs: Path) -> RunFolder:
    """By a number above every run's of the job, and of no folder that this database does not know (yet)."""
    sql = "SELECT coalesce(max(CAST(substr(id, length(job) + 2) AS INTEGER)), 0) FROM runs WHERE job = ?"
    number = int(conn.execute(sql, (job,)).fetchone()[0]) + 1
    while (runs / f"{job}-{number}").exists():
        number += 1
    return RunFolder(runs / f"{job}-{number}")


def record(run_id: str, number: int, new: Submission) -> records.RunRecord:
    """What `run.json` says of it."""
    return records.RunRecord(
        id=run_id,
        number=number,
        job=new.job,
        revision=new.revision,
        backend=new.backend,
        emulated=new.emulated,
        parent=new.parent,
        total_steps=new.total_steps,
        created_at=time.time(),
        spec=msgspec.Raw(new.spec.encode()),
    )


def fill(new: Sequence[Submission], folders: Sequence[RunFolder]) -> None:
    """Puts into each folder what its submission brings. Raises what the first one that fails raises."""
    with ThreadPoolExecutor(FILLERS) as pool:
        pairs = zip(new, folders, strict=True)
        for filled in [pool.submit(item.fill, folder) for item, folder in pairs if item.fill is not None]:
            filled.result()
