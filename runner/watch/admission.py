"""Which of the waiting runs may start now; and for each of the others, in words, what it waits for.

Best-effort order: higher priority first, then the order of submission, and one that can't start does not keep the
others back.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from runner.journal.folder import read_json
from runner.journal.states import Reason, State
from runner.queue import local
from runner.queue.home import Home
from runner.store import queries
from runner.store.rows import QueuedRow, RunRow
from runner.store.store import Store
from runner.watch import machine
from runner.watch.config import Config
from runner.watch.desk import Desk
from runner.watch.keeper import Keeper
from runner.watch.log import Log

Slot = Literal["cpu", "gpu"]
GPU_EVERY_SECONDS = 5.0
DISK_EVERY_SECONDS = 2.0
GIB = 1 << 30
NO_GPU = "no GPU; use watch --emulate"


@dataclass(slots=True, kw_only=True)
class Waiting:
    """The queue after a round."""

    runs: int = 0
    stuck: int = 0
    """Of them: those that nothing on this machine will start by itself."""
    details: dict[str, str] = field(default_factory=dict[str, str])


class Admission:
    def __init__(
        self,
        home: Home,
        store: Store,
        desk: Desk,
        keeper: Keeper,
        config: Config,
        log: Log,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._home, self._store, self._desk, self._keeper = home, store, desk, keeper
        self._config, self._log, self._clock = config, log, clock
        self._slots: dict[str, Slot] = {}
        self._gpus, self._gpus_at = 0, float("-inf")
        self._busy, self._busy_at = "", float("-inf")
        self._free, self._free_at = 0, float("-inf")
        self._short_of_disk = False

    def admit(self, alive: list[str]) -> Waiting:
        """Starts what can start. Raises StoreUnavailable."""
        running = [self._store.run(run_id) for run_id in alive]
        taken = Counter(self._slot(run) for run in running)
        busy_jobs = {(run.job, run.backend): run.id for run in running}
        left = Waiting()
        for row in queries.queue(self._store):
            slot = self._slot(row)
            reason, stuck = self._reason(row, slot, taken[slot], busy_jobs)
            if not reason:
                reason = self._start(row)
                taken[slot] += not reason
                busy_jobs[row.job, row.backend] = row.id
            if reason:
                self._wait(left, row, reason, stuck)
        if left.details:
            self._store.waiting_all(left.details)
        return left

    def _wait(self, left: Waiting, row: QueuedRow, reason: str, stuck: bool) -> None:
        left.runs += 1
        left.stuck += stuck
        if reason != row.detail:
            left.details[row.id] = reason

    def _reason(
        self, row: QueuedRow, slot: Slot, taken: int, busy_jobs: dict[tuple[str, str], str]
    ) -> tuple[str, bool]:
        """What the run waits for, and whether it would wait for ever; nothing when it can start."""
        if row.want != "run":
            return f"is to {row.want}", True
        if pause := self._keeper.pause(row.id):
            return row.detail if "starts again in" in row.detail else f"pauses {pause:.0f} s", False
        if other := busy_jobs.get((row.job, row.backend)):
            return f"waiting for {other} to end", False
        waiting, stuck = self._dependencies(row)
        if waiting:
            return waiting, stuck
        return self._machine(row, slot, taken)

    def _dependencies(self, row: QueuedRow) -> tuple[str, bool]:
        for name in self._after(row):
            job = self._desk.jobs.get(name)
            if job is None or job.revision is None:
                return f"after {name}: there is no sound job of that name", self._desk.is_settled
            runs = queries.revision_runs(self._store, name, job.revision, row.backend)
            state = runs[0].state if runs else None
            if state is State.SUCCEEDED:
                continue
            if state is None or not state.is_final:
                return f"after {name}: {runs[0].id if runs else 'it'} {_standing(state)}", state is State.HELD
            self._store.transition(
                row.id, State.HELD, Reason.DEPENDENCY_FAILED, f"after {name}: {runs[0].id} has {state}"
            )
            return "held", True
        return "", False

    def _after(self, row: QueuedRow) -> tuple[str, ...]:
        """As the job's file says now, else as it said at the submission."""
        after = self._desk.after_of(row.job)
        if after is not None:
            return after
        spec = (read_json(self._home.run(row.id).spec_json) or {}).get("job", {})
        return tuple(spec.get("after", ()))

    def _machine(self, row: QueuedRow, slot: Slot, taken: int) -> tuple[str, bool]:
        if slot == "gpu" and self._count_gpus() == 0:
            return NO_GPU, True
        slots = self._config.capacity.gpu if slot == "gpu" else self._config.capacity.cpu
        if taken >= slots:
            return f"waiting for {'the GPU' if slot == 'gpu' else 'a CPU slot'}: {slots} in use", False
        if lack := self._disk(row, slot):
            return lack, False
        if slot == "gpu" and taken == 0 and (busy := self._gpu_in_use()):
            return busy, False
        if not self._home.run(row.id).path.is_dir():
            return f"its folder is gone; `runner cancel {row.id}`, then `runner submit` the job again", True
        return "", False

    def _disk(self, row: QueuedRow, slot: Slot) -> str:
        if self._clock() - self._free_at >= DISK_EVERY_SECONDS:
            self._free_at, self._free = self._clock(), machine.free_bytes(self._home.state)
        last = max((kept.bytes for kept in queries.checkpoints(self._store, row.id)), default=0)
        needed = self._config.free_needed(slot, last)
        short = self._free < needed
        if short and not self._short_of_disk:
            free, need = f"{self._free / GIB:.1f}", f"{needed / GIB:.1f}"
            self._log(
                "disk", level="error", free_gib=free, needed_gib=need, hint="`runner prune` removes old checkpoints"
            )
        self._short_of_disk = short
        return f"disk: {needed / GIB:.1f} GiB needed; `runner prune` makes room" if short else ""

    def _count_gpus(self) -> int:
        if self._clock() - self._gpus_at >= GPU_EVERY_SECONDS:
            self._gpus, self._gpus_at = machine.gpus(), self._clock()
        return self._gpus

    def _gpu_in_use(self) -> str:
        """Who holds the GPU though no run of ours is on it; what is left of a run that is over is killed."""
        if self._clock() - self._busy_at >= GPU_EVERY_SECONDS:
            self._busy_at = self._clock()
            foreign = machine.end_leftovers(self._home, machine.gpu_processes())
            busy = f"the GPU is in use by {foreign[0]}" if foreign else ""
            if busy and busy != self._busy:
                self._log("gpu_busy", level="warning", by=str(foreign[0]))
            self._busy = busy
        return self._busy

    def _slot(self, run: RunRow | QueuedRow) -> Slot:
        if run.emulated:
            return "cpu"
        if run.id not in self._slots:
            spec = read_json(self._home.run(run.id).spec_json) or {}
            self._slots[run.id] = "cpu" if spec.get("device") == "cpu" else "gpu"
        return self._slots[run.id]

    def _start(self, row: QueuedRow) -> str:
        started = local.start(self._home, self._store, row.id, attached=False)
        if isinstance(started, str):
            return started
        self._keeper.take(started)
        return ""


def _standing(state: State | None) -> str:
    return "has not been submitted" if state is None else f"is {state}"
