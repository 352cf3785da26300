"""Runs on this machine: start, follow, stop, resume, and the conclusion when the processes are gone.

Whoever looks at a run may conclude it: the run folder's lock says whether it lives, its journal and `exit.json` how it
ended. So nothing is lost when the process that started a run dies.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from runner.journal.failpoints import failpoint
from runner.journal.folder import RunFolder, read_json
from runner.journal.states import STATE_OF, Reason, State
from runner.queue.home import Home
from runner.queue.retry import Again, decide
from runner.queue.supervise import boot_id, start_time
from runner.spec.model import JobSpec
from runner.store import queries
from runner.store.digest import digest
from runner.store.errors import IllegalTransition, StoreError
from runner.store.rows import AttemptRow, EventRow, RunRow
from runner.store.store import Store

POLL_SECONDS = 0.1
ENDED_FOR_GOOD = {"cancel": Reason.CANCELLED, "delete": Reason.SPEC_DELETED}
"""What a stop means for a run of which somebody wished this."""
LOCK_SECONDS = 2.0
HANDLE_SECONDS = 3.0
MANY_ROLLOUTS = 20_000
"""The digest of as many takes about a second."""
LOG_TAIL = 2000
"""Characters of the trainer's log that a failure without a last word is told with."""


class Supervisor(Protocol):
    """An attempt's supervisor, as its starter sees it: `subprocess.Popen` is one."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self) -> int: ...
    def terminate(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A run that this process has started."""

    run_id: str
    supervisor: Supervisor
    pipe: int | None
    """Write end; closing it (or dying) stops the run. None for a detached run."""

    def stop(self) -> None:
        """The first call asks for a checkpoint and an orderly end; the second ends it now."""
        if self.supervisor.poll() is None:
            self.supervisor.terminate()

    def rest(self, seconds: float) -> None:
        """Sleeps so long, or until the supervisor goes."""
        process = _pidfd(self.supervisor.pid) if self.supervisor.poll() is None else None
        if process is None:
            time.sleep(seconds)
            return
        try:
            poll = select.poll()
            poll.register(process, select.POLLIN)
            poll.poll(seconds * 1000)
        finally:
            os.close(process)


def _pidfd(pid: int) -> int | None:
    """A descriptor that is readable when the process is gone; None where it is already, or the system has none."""
    try:
        return os.pidfd_open(pid) if sys.platform == "linux" else None
    except OSError:
        return None


Spawn = Callable[[RunFolder, str, int, int], Started]
"""Starts the supervisor of (run folder, run id, attempt) with the descriptor of the folder's lock."""


def start(home: Home, store: Store, run_id: str, *, attached: bool, spawn: Spawn | None = None) -> Started | str:
    """Claims a queued run and starts its next attempt; or says in words what it waits for. `spawn`: how, where a
    process of its own is not wanted."""
    folder = home.run(run_id)
    lock = _lock(folder)
    if lock is None:
        return "another process of this run is still alive"
    try:
        claim = store.claim(run_id, host=os.uname().nodename, boot_id=boot_id())
        if claim.run is None:
            return claim.waiting
        failpoint("queue.claimed")
        if spawn is not None:
            return spawn(folder, run_id, claim.attempt, lock)
        return _spawn(folder, run_id, claim.attempt, lock, attached)
    finally:
        os.close(lock)


def _lock(folder: RunFolder) -> int | None:
    """The run's lock. Whoever looks whether the run lives holds it for a moment, too, so one failure is no proof."""
    deadline = time.monotonic() + LOCK_SECONDS
    while (lock := folder.take_lock()) is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return lock


def _spawn(folder: RunFolder, run_id: str, attempt: int, lock: int, attached: bool) -> Started:
    read, write = os.pipe() if attached else (None, None)
    passed = [fd for fd in (lock, read) if fd is not None]
    command = [sys.executable, "-m", "runner.queue.supervise", str(folder.path), str(attempt), "--lock", str(lock)]
    supervisor = subprocess.Popen(
        command if read is None else [*command, "--pipe", str(read)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=passed,
        env={**os.environ, "RUNNER_RUN_ID": run_id},
    )
    if read is not None:
        os.close(read)
    failpoint("queue.spawned")
    return Started(run_id=run_id, supervisor=supervisor, pipe=write)


def follow(
    home: Home, store: Store, run_id: str, after: int = 0, rest: Callable[[float], object] = time.sleep
) -> Iterator[EventRow | None]:
    """Events of a run as they come, from the event id `after` on; None when there is nothing new for a moment.

    Ends when the run has ended and everything it recorded was given. `rest` sleeps for so many seconds, or less.
    """
    while True:
        alive = not conclude(home, store, run_id)
        fresh = queries.events(store, run_id, after=after)
        for event in fresh:
            after = event.id
            yield event
        if not alive and not fresh:
            return
        if not fresh:
            yield None
            rest(POLL_SECONDS)


def conclude(
    home: Home, store: Store, run_id: str, seconds: float = math.inf, aside: Callable[[str], None] | None = None
) -> bool:
    """Takes in what a run has recorded and, when its processes are gone, its end. Whether it has ended.

    After about so many seconds it leaves the rest, and with it the end, for the next time. Of a run that has recorded
    so much that its digest takes long, the end is left to `aside`.
    """
    is_behind = not store.catch_up(run_id, seconds)
    run, folder = store.run(run_id), home.run(run_id)
    if not run.state.is_live:
        return True
    if is_behind:
        _note_running(store, run, folder)
        return False
    lock = folder.take_lock()
    if lock is None:
        _note_running(store, run, folder)
        return False
    try:
        store.ingest(run_id)
        run = store.run(run_id)
        if run.state.is_live and aside is not None and queries.has_rollouts(store, run_id, at_least=MANY_ROLLOUTS):
            aside(run_id)
            return False
        if run.state.is_live:
            _conclude(store, run, folder)
        return True
    finally:
        os.close(lock)


def _note_running(store: Store, run: RunRow, folder: RunFolder) -> None:
    attempt = store.attempts(run.id)[-1]
    if run.state is State.STARTING and attempt.journal_offset > 0:
        with contextlib.suppress(IllegalTransition):  # somebody else looked, too, and was faster
            store.transition(run.id, State.RUNNING)
            store.set_handle(run.id, attempt.n, read_json(folder.attempt(attempt.n) / "handle.json"))


def _conclude(store: Store, run: RunRow, folder: RunFolder) -> None:
    _note_running(store, run, folder)
    attempt = store.attempts(run.id)[-1]
    exit_record = read_json(folder.attempt(attempt.n) / "exit.json") or {}
    reason, detail = _ending(store, run, folder, attempt, exit_record)
    if run.want in ENDED_FOR_GOOD and reason in (Reason.STOPPED, Reason.LOST):
        reason = ENDED_FOR_GOOD[run.want]
    store.end_attempt(run.id, attempt.n, outcome=reason, exit_code=exit_record.get("exit_code"))
    failpoint("queue.concluded")
    first, _, rest = detail.partition("\n")
    if STATE_OF[reason].is_final:
        store.set_digest(run.id, *digest(store, run.id))
    store.transition(run.id, STATE_OF[reason], reason, first, error=rest or None)


def _ending(
    store: Store, run: RunRow, folder: RunFolder, attempt: AttemptRow, exit_record: dict[str, object]
) -> tuple[Reason, str]:
    for event in queries.events(store, run.id, types=["attempt_ended"]):
        if event.attempt == attempt.n and event.data is not None:
            return Reason(event.data["reason"]), str(event.data["detail"])
    if not exit_record:
        went_down = attempt.boot_id is not None and attempt.boot_id != boot_id()
        return Reason.LOST, "the machine was restarted" if went_down else "the processes vanished: killed from outside"
    if exit_record["killed"]:
        return Reason.STOPPED, "stopped at once, without a checkpoint of the last steps"
    if exit_record["signal"] == signal.SIGTERM:
        return Reason.STOPPED, "stopped before it had begun"
    if number := exit_record["signal"]:
        return Reason.LOST, f"the trainer was killed by signal {number}; 9 is often the kernel short of memory"
    return Reason.INTERNAL, f"the trainer ended without a word; the end of its log:\n{_log_tail(folder, attempt.n)}"


def _log_tail(folder: RunFolder, attempt: int) -> str:
    try:
        return (folder.attempt(attempt) / "trainer.log").read_text(errors="replace")[-LOG_TAIL:]
    except FileNotFoundError:
        return ""


def resume(home: Home, store: Store, run_id: str) -> None:
    """Puts a held run back in the queue; its next attempt goes on from the last complete checkpoint.

    Raises StoreError with the way out for a run that is not held.
    """
    conclude(home, store, run_id)
    run = store.run(run_id)
    if run.state.is_final:
        raise StoreError(
            f"{run.id} has {run.state}, which is final; `runner rerun {run.job} --from {run.id}@{run.last_step}` "
            "makes a new run that goes on from there"
        )
    if run.state is not State.HELD:
        raise StoreError(f"{run.id} is {run.state}; only a held run can be resumed")
    store.want(run_id, "run")
    store.transition(run_id, State.QUEUED, Reason.WAITING, "resumed")


def resume_by_rule(home: Home, store: Store, run_id: str) -> str:
    """Resumes a run that has just been held for a cause that a new process may get over, where its own `retry:` says
    so; gives why, or nothing. Faults of the emulator are there to be seen."""
    run = store.run(run_id)
    reason = run.reason if run.state is State.HELD and not run.emulated else None
    if reason is not Reason.OUT_OF_MEMORY and reason is not Reason.ENGINE_FAILED:
        return ""
    policy = JobSpec.model_validate_json(run.spec).retry
    kept = [item.step for item in queries.checkpoints(store, run_id) if item.kept]
    said = decide(reason, run.detail, store.attempts(run_id), max(kept, default=None), policy)
    if not isinstance(said, Again):
        return ""
    resume(home, store, run_id)
    return f"{reason}: {said.detail}"


def cancel(home: Home, store: Store, run_id: str, want: Literal["cancel", "delete"] = "cancel") -> None:
    """Ends a run for good: at once when it waits, after a checkpoint when it runs. Raises StoreError when final."""
    conclude(home, store, run_id)
    run = store.run(run_id)
    if run.state.is_final:
        raise StoreError(f"{run.id} has already {run.state}; there is nothing to cancel")
    if run.state.is_live:
        store.want(run_id, want)
        stop(home.run(run_id), store.attempts(run_id)[-1].n)
    else:
        reason = ENDED_FOR_GOOD[want]
        store.transition(run_id, State.CANCELLED, reason, "cancelled" if want == "cancel" else "its job file is gone")


def stop(folder: RunFolder, attempt: int) -> bool:
    """SIGTERM to the attempt's supervisor, if it is still the process that we started. One that is just being started
    is waited for: it writes its handle before it starts the trainer."""
    deadline = time.monotonic() + HANDLE_SECONDS
    while (handle := read_json(folder.attempt(attempt) / "handle.json")) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if handle is None or start_time(handle["pid"]) != handle["start_time"]:
        return False
    os.kill(handle["pid"], signal.SIGTERM)
    return True


def trainer_log(folder: RunFolder, attempt: int) -> Path:
    return folder.attempt(attempt) / "trainer.log"
