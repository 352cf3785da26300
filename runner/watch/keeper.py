"""Looks after the runs that are there: takes in what they record, concludes those that ended, starts again those that
were cut off, and notices those that have fallen silent.

It holds nothing that a next watch would need: a run's lock, its journal and its exit record say everything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from runner.journal.states import Reason, State
from runner.queue import local
from runner.queue.home import Home
from runner.queue.retry import RETRIED, Again, GivenUp, decide, seconds
from runner.spec.model import Retry
from runner.store import queries
from runner.store.errors import JournalError, SlotTaken, StoreUnavailable
from runner.store.rows import EventRow, RunRow
from runner.store.store import Store
from runner.watch.config import Config
from runner.watch.desk import Desk
from runner.watch.log import Level, Log

INGEST_SECONDS = 0.25
"""For one run in one round: a watch that finds hours of records takes them in without neglecting the rest."""
HELD_EVERY_SECONDS = 1.0
STALL_EVERY_SECONDS = 10.0
_TOLD = ("transition", "alert", "version_changed")
_LEVEL: dict[str, Level] = {"failed": "error", "timed_out": "error", "held": "warning"}


class Keeper:
    def __init__(
        self,
        home: Home,
        store: Store,
        desk: Desk,
        config: Config,
        log: Log,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._home, self._store, self._desk, self._log = home, store, desk, log
        self._clock = clock
        self._silence = seconds(config.stalled_after)
        self._children: dict[str, local.Started] = {}
        self._paused: dict[str, float] = {}
        self._broken: set[str] = set()
        self._ending: dict[str, threading.Thread] = {}
        self._told: dict[str, float] = {}
        self._held_at = self._stall_at = float("-inf")
        self._event = queries.last_event(store)
        self.ended: dict[str, State] = {}
        """Runs that ended, or are held, since this watch began; and how."""

    def look(self) -> list[str]:
        """One round; gives the runs that are alive. Raises StoreUnavailable."""
        alive = [run_id for run_id in queries.live(self._store) if not self._conclude(run_id)]
        self._reap()
        now = self._clock()
        if now - self._held_at >= HELD_EVERY_SECONDS:
            self._held_at = now
            self.retry_now()
        if now - self._stall_at >= STALL_EVERY_SECONDS:
            self._stall_at = now
            for run_id in alive:
                self._notice_silence(run_id)
        self._tell()
        return alive

    def take(self, started: local.Started) -> None:
        """A run that was just started: its supervisor is our child, to be reaped."""
        self._children[started.run_id] = started

    def pause(self, run_id: str) -> float:
        """Seconds until the run may start again."""
        return max(0.0, self._paused.get(run_id, 0.0) - self._clock())

    def retry_now(self) -> bool:
        """Puts back into the queue what is to start again. Whether there was any."""
        held = queries.held(self._store, RETRIED)
        for run in held:
            self._again(run)
        return any(self._store.run(run.id).state is State.QUEUED for run in held)

    def _conclude(self, run_id: str) -> bool:
        if run_id in self._ending and self._ending[run_id].is_alive():
            return False
        try:
            return local.conclude(self._home, self._store, run_id, INGEST_SECONDS, self._end_aside)
        except JournalError as error:
            if run_id not in self._broken:
                self._broken.add(run_id)
                self._log("journal_broken", level="error", run=run_id, error=str(error))
            return False

    def _end_aside(self, run_id: str) -> None:
        """In a thread: the digest of hours of records takes a while. Until then the run counts as alive; an end that
        fails is tried again in the next round."""
        self._ending[run_id] = threading.Thread(target=self._end, args=(run_id,), name=f"end {run_id}", daemon=True)
        self._ending[run_id].start()

    def _end(self, run_id: str) -> None:
        with suppress(StoreUnavailable, OSError), self._home.open() as store:
            local.conclude(self._home, store, run_id)

    def _reap(self) -> None:
        for run_id, started in list(self._children.items()):
            if started.supervisor.poll() is not None:
                del self._children[run_id]

    def _again(self, run: RunRow) -> None:
        """Back into the queue, or held for good, by the job's own policy. Runs of jobs elsewhere are left to people."""
        policy = self._desk.retry_of(run)
        if policy is None or run.reason is None:
            return
        match self.decision(run, policy):
            case Again(pause, detail):
                ended = self._store.attempts(run.id)[-1].ended_at or time.time()
                self._paused[run.id] = self._clock() + max(0.0, min(pause, ended + pause - time.time()))
                with suppress(SlotTaken):  # a newer one has just been submitted: it has the place
                    self._store.transition(run.id, State.QUEUED, Reason.WAITING, detail)
            case GivenUp(detail):
                self._store.transition(run.id, State.HELD, Reason.CRASH_LOOP, detail)
            case None:
                pass

    def decision(self, run: RunRow, policy: Retry) -> Again | GivenUp | None:
        """What the policy says of a held run."""
        assert run.reason is not None
        kept = [row.step for row in queries.checkpoints(self._store, run.id) if row.kept]
        return decide(run.reason, run.detail, self._store.attempts(run.id), max(kept, default=None), policy)

    def _notice_silence(self, run_id: str) -> None:
        folder = self._home.run(run_id)
        attempt = self._store.attempts(run_id)[-1].n
        files = (folder.journal(attempt), folder.attempt(attempt) / "trainer.log", folder.attempt(attempt))
        last = max((_changed_at(path) for path in files), default=0.0)
        silent = time.time() - last
        if last and silent > self._silence and self._told.get(run_id) != last:
            self._told[run_id] = last
            message = f"nothing recorded and nothing printed for {silent:.0f} s; `runner logs {run_id} --trainer`"
            self._store.alert(run_id, "stalled", message)

    def _tell(self) -> None:
        """Every change of state, every alert and every reward version, whoever made it."""
        while found := queries.events(self._store, after=self._event, types=_TOLD):
            for event in found:
                self._event = event.id
                self._tell_one(event)

    def _tell_one(self, event: EventRow) -> None:
        data = event.data or {}
        if event.type == "alert":
            self._log(
                "alert",
                level="warning",
                run=event.run_id,
                step=data["step"],
                code=data["code"],
                message=data["message"],
            )
            return
        if event.type == "version_changed":
            self._tell_version(event.run_id, data)
            return
        state = State(data["to"])
        self.ended.pop(event.run_id, None)
        if (state.is_final and state is not State.SUPERSEDED) or state is State.HELD:
            self.ended[event.run_id] = state
        self._log(
            "run",
            level=_LEVEL.get(data["to"], "info"),
            run=event.run_id,
            state=data["to"],
            reason=data["reason"],
            detail=data["detail"] or None,
        )

    def _tell_version(self, run_id: str, data: Mapping[str, Any]) -> None:
        """The version that a run begins with is no news."""
        if data["number"] > 1 and data["state"] != "retired":
            level: Level = "warning" if data["state"] == "rejected" else "info"
            error = (data["error"] or "").partition("\n")[0]
            self._log(
                "reward_version",
                level=level,
                run=run_id,
                version=data["number"],
                state=data["state"],
                step=data["first_step"],
                error=error or None,
            )


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
