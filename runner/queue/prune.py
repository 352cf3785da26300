"""Room on the disk: checkpoints that nobody will resume from are removed; what a run recorded stays."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass

from runner.journal.states import FINAL
from runner.queue.home import Home
from runner.store import queries
from runner.store.store import Store


@dataclass(frozen=True, slots=True)
class Pruned:
    """A checkpoint that was, or would be, removed."""

    run: str
    step: int
    bytes: int


def prune(
    home: Home, store: Store, *, older_than: float = 0.0, last_too: bool = False, dry: bool = False
) -> list[Pruned]:
    """Removes checkpoints of runs that ended at least `older_than` seconds ago: all but each run's last and its best,
    or those too. Runs that wait, run or are held keep theirs."""
    removed: list[Pruned] = []
    for run in queries.runs(store, states=tuple(FINAL), limit=-1):
        if time.time() - (run.ended_at or 0.0) < older_than:
            continue
        kept = [row for row in queries.checkpoints(store, run.id) if row.kept]
        best = home.run(run.id).best
        for row in kept if last_too else [row for row in kept[:-1] if row.step != best]:
            removed.append(Pruned(run.id, row.step, row.bytes))
            if not dry:
                store.drop_checkpoint(run.id, row.step)  # first: a row must not name what is not there
                shutil.rmtree(home.run(run.id).path / row.path, ignore_errors=True)
    return removed
