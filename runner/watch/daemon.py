"""`runner watch`: looks at the folder, looks after the runs, starts what can start, and again.

Nothing in this process is needed by a run: each has a supervisor of its own. So the watch may be killed, upgraded or
started anew at any moment; the next one finds everything in the run folders and the database.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from runner.api import EnvironmentUnfit
from runner.journal.states import Reason, State
from runner.queue import local
from runner.queue.home import Home
from runner.queue.jobs import BackendName
from runner.queue.retry import seconds
from runner.store.errors import SlotTaken, StoreUnavailable
from runner.watch import machine, metrics
from runner.watch.admission import Admission, Waiting
from runner.watch.config import read_config
from runner.watch.desk import Desk
from runner.watch.edits import Edits
from runner.watch.hints import Hints
from runner.watch.keeper import Keeper
from runner.watch.lock import take_lock
from runner.watch.log import Log
from runner.watch.notify import Notifier
from runner.watch.upkeep import Backups, open_sound
from runner.watch.wake import Wake

LOOK_SECONDS = (2.0, 10.0)
"""The folder is looked at so often, whatever the notifications say; less often where a look takes long."""
LOOK_SHARE = 200
"""At rest, looks may take this fraction of the time."""
BETWEEN_LOOKS_SECONDS = 0.2
BUSY_SECONDS = 0.25
"""Pause between two rounds while runs are alive: their journals are read."""
ADMIT_SECONDS = 1.0
ADMIT_REST = 10
"""After going through a long queue, so many times what that took, as long as no run begins or ends."""
TROUBLE_SECONDS = (0.5, 1.0, 2.0, 5.0)
"""Pauses after the first, second and further rounds in a row that the disk, the database or a defect cut short."""
SECOND_THOUGHTS_SECONDS = 5.0
"""So long a Ctrl-C waits for another one, which stops the runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    backend: BackendName = "trl"
    once: bool = False
    """Ends when everything in the folder has been run."""
    stop_jobs: bool = False
    """The first signal already stops the runs, with a checkpoint."""
    metrics_port: int | None = None


class Watch:
    """One watch over one home; holds the lock from its making to the end of the process."""

    def __init__(self, home: Home, options: Options, log: Log) -> None:
        self._home, self._options, self._log = home, options, log
        _refuse_what_is_no_home(home)
        _refuse_network(home)
        home.state.mkdir(exist_ok=True)
        self._lock = take_lock(home)
        config = read_config(home)
        self._notifier = Notifier(config.notify)
        log.listen(self._notifier)
        self._store, rebuilt = open_sound(home)
        if rebuilt is not None:
            log("database_rebuilt", level="error", runs=rebuilt.runs, old=str(rebuilt.old), problems=rebuilt.problems)
        self._wake = Wake()
        self._hints = Hints(home.jobs, self._wake.set)
        self._config = config
        self._sit_down()
        self._edits = Edits(home, log)
        self._backups = Backups(home, seconds(config.backup_every), log)
        self._gauges = metrics.Gauges()
        self._alive: list[str] = []
        self._waiting = Waiting()
        self._stopped: dict[str, int] = {}
        self._looked_at = self._admitted_at = float("-inf")
        self._admit_seconds = 0.0
        self._quiet_until: float | None = None
        self._troubles = 0

    def _sit_down(self) -> None:
        """All that is known of jobs and runs, from the database."""
        self._desk = Desk(self._home, self._store, self._options.backend, self._log)
        self._keeper = Keeper(self._home, self._store, self._desk, self._config, self._log)
        self._admission = Admission(self._home, self._store, self._desk, self._keeper, self._config, self._log)

    def run(self) -> int:
        """Until a signal, or (once) until everything has been run. The exit code."""
        self._wake.catch_signals()
        self._adopt()
        if self._options.metrics_port is not None:
            port, _ = metrics.serve(self._home, self._gauges, self._options.metrics_port)
            self._log("metrics", address=f"http://127.0.0.1:{port}/metrics")
        notified = self._hints.arm()
        how = "notifications and every 2 s" if notified else "every 2 s"
        self._log("ready", home=str(self._home.path), backend=self._options.backend, looks=how, pid=os.getpid())
        try:
            return self._loop()
        finally:
            self._hints.stop()
            self._edits.close()
            self._notifier.close()
            self._store.close()

    def _adopt(self) -> None:
        began = time.monotonic()
        try:
            self._alive = self._keeper.look()
        except (StoreUnavailable, OSError) as error:
            self._say_trouble("store_unavailable", str(error))
        if self._alive:
            self._log("adopted", runs=" ".join(self._alive), seconds=round(time.monotonic() - began, 3))

    def _loop(self) -> int:
        woken = True
        while True:
            code = self._try_round(woken)
            if code is not None:
                return code
            woken = self._wake.wait(self._pause())

    def _try_round(self, woken: bool) -> int | None:
        """The one place where everything is caught: a full disk passes, and a defect of ours must not leave the runs
        alone. After a defect all is read from the database again, as another watch would."""
        try:
            code = self._wind_down() if self._wake.stops else self._round(woken)
            self._troubles = 0
            return code
        except (StoreUnavailable, OSError) as error:
            self._say_trouble("store_unavailable", str(error))
            if self._stops == 1:  # to leave, nothing has to be written
                return self._leave()
        except Exception:
            if self._options.once or self._wake.stops:
                raise
            self._say_trouble("defect", traceback.format_exc())
            with suppress(StoreUnavailable, OSError):
                self._sit_down()
        return None

    def _round(self, woken: bool) -> int | None:
        now = time.monotonic()
        fresh = woken or not self._desk.is_settled
        if now - self._looked_at >= (BETWEEN_LOOKS_SECONDS if fresh else self._look_every):
            self._look(now)
        before = self._alive
        self._alive = self._keeper.look()
        if self._alive != before or self._admission_is_due(now):
            self._admitted_at, began = now, time.monotonic()
            self._waiting = self._admission.admit(self._alive)
            self._admit_seconds = time.monotonic() - began
            self._alive = self._keeper.look()
        self._edits.follow(self._alive)
        self._backups.look()
        return self._once_code() if self._options.once else None

    def _admission_is_due(self, now: float) -> bool:
        since = now - self._admitted_at
        return since >= ADMIT_REST * self._admit_seconds and (since >= ADMIT_SECONDS or self._looked_at == now)

    def _look(self, now: float) -> None:
        self._looked_at = now
        self._hints.arm()
        self._desk.look(self._hints.take())
        self._gauges.looked_at, self._gauges.look_seconds = time.time(), time.monotonic() - now
        self._gauges.jobs, self._gauges.invalid = len(self._desk.jobs), self._desk.invalid
        self._gauges.free_bytes = machine.free_bytes(self._home.state)
        self._gauges.notify_failures = self._notifier.failures

    def _pause(self) -> float:
        if self._troubles:
            return TROUBLE_SECONDS[min(self._troubles, len(TROUBLE_SECONDS)) - 1]
        if self._wake.stops or (self._alive and not self._desk.unread):
            return BUSY_SECONDS
        if not self._desk.is_settled:
            return 0.0 if self._desk.unread else BETWEEN_LOOKS_SECONDS
        if self._waiting.runs:
            return ADMIT_SECONDS
        return max(0.0, self._looked_at + self._look_every - time.monotonic())

    @property
    def _look_every(self) -> float:
        """Seconds between two looks at a folder that nothing is heard of."""
        shortest, longest = LOOK_SECONDS
        return min(max(shortest, self._gauges.look_seconds * LOOK_SHARE), longest)

    def _say_trouble(self, event: str, error: str) -> None:
        if not self._troubles:
            self._log(event, level="error", error=error, hint="the runs go on; tried again, at last every 5 s")
        self._troubles += 1

    # Ends

    def _once_code(self) -> int | None:
        """When nothing is left that could run: 0 if all of it has succeeded, else 1."""
        if not self._desk.is_settled or self._alive or self._waiting.runs > self._waiting.stuck:
            return None
        if self._keeper.retry_now():
            return None
        failed = [run_id for run_id, state in self._keeper.ended.items() if state is not State.SUCCEEDED]
        wrong = self._desk.invalid + self._waiting.stuck + self._desk.away + len(failed)
        passed = len(self._keeper.ended) - len(failed)
        self._log("done", passed=passed, failed=len(failed), invalid=self._desk.invalid, waiting=self._waiting.stuck)
        return 1 if wrong else 0

    def _wind_down(self) -> int | None:
        """Nothing new is started. The first signal leaves the runs alone, the second stops them with a checkpoint, the
        third ends them at once."""
        self._alive = self._keeper.look()
        if self._stops == 1:
            return self._leave()
        for run_id in self._alive:
            self._stop(run_id, times=min(self._stops - 1, 2))
        if self._alive:
            return None
        self._put_back(self._stopped)
        self._log("stopped", runs=" ".join(self._stopped) or None)
        return self._signal_code()

    @property
    def _stops(self) -> int:
        """Signals so far; with `--stop-jobs` the first counts as the second."""
        return len(self._wake.stops) + (self._options.stop_jobs and bool(self._wake.stops))

    def _leave(self) -> int | None:
        if not self._alive:
            self._log("stopped")
            return self._signal_code()
        patient = self._wake.stops[0] == signal.SIGINT
        if self._quiet_until is None:
            self._quiet_until = time.monotonic() + (SECOND_THOUGHTS_SECONDS if patient else 0)
            hint = "they go on by themselves and the next watch takes them up"
            again = "; Ctrl-C again within 5 s stops them with a checkpoint" if patient else ""
            self._log("left_running", runs=" ".join(self._alive), hint=hint + again)
        return self._signal_code() if time.monotonic() >= self._quiet_until else None

    def _stop(self, run_id: str, times: int) -> None:
        """A run's first stop asks for a checkpoint, its second ends it."""
        if self._stopped.get(run_id, 0) >= times:
            return
        self._log("stopping" if times == 1 else "killing", run=run_id)
        self._stopped[run_id] = times
        local.stop(self._home.run(run_id), self._store.attempts(run_id)[-1].n)

    def _put_back(self, run_ids: Iterable[str]) -> None:
        """Runs that only this watch's end has stopped wait for the next one."""
        for run_id in run_ids:
            run = self._store.run(run_id)
            if run.state is State.HELD and run.reason is Reason.STOPPED and run.want == "run":
                detail = "stopped with the watch; the next one goes on with it"
                with suppress(SlotTaken):
                    self._store.transition(run_id, State.QUEUED, Reason.WAITING, detail)

    def _signal_code(self) -> int:
        return 128 + self._wake.stops[0] if self._options.once else 0


def _refuse_what_is_no_home(home: Home) -> None:
    """A folder that was never one is a mistake; one whose jobs/ is away for now is waited for."""
    if not home.jobs.is_dir() and not home.state.is_dir():
        raise EnvironmentUnfit(f"{home.jobs} is not there. `runner init` makes it; --home names a folder that has one.")


def _refuse_network(home: Home) -> None:
    for folder in (home.jobs, home.state):
        kind = machine.file_system(folder)
        if machine.is_network(kind):
            raise EnvironmentUnfit(
                f"{folder} is on a network file system ({kind}): its locks and SQLite's log can't be relied on there. "
                "Put the folder that holds jobs/ on a local disk and name it with --home."
            )
