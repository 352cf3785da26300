"""Runs reward calls in isolated processes: whatever a reward does costs exactly its own call.

One zygote per version imports the files once and forks workers. The host owns the deadlines: the first unanswered call
of a worker is the one that runs; over its time the worker is asked for its stack, killed, and a fresh one takes the
rest. A call whose worker died is tried once more alone, for a leftover of the call before may have done it.

One thread, one `score()` at a time; the zygote is ended by `close()`, or by the death of this process.
"""

from __future__ import annotations

import os
import selectors
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from runner.rewards.bundle import read
from runner.rewards.calls import Batch, Call
from runner.rewards.contract import GroupCall, Outcome, Score
from runner.rewards.frames import Answer, ProtocolError, answer, decode
from runner.rewards.processes import START_SECONDS, LoadFailure, State, Worker, Zygote, how_it_ended
from runner.spec.errors import Finding, JobError

STACK_SECONDS = 0.01
"""Time a worker gets to write its stack before it is killed."""
BURIAL_SECONDS = 2.0
"""Time in which the zygote must tell of a worker's death; else it is taken for lost."""
STEAL_SECONDS = 0.05
"""A call that runs so long has the calls behind it taken away, when another worker is idle."""
LOST_ZYGOTES = 4
"""Zygotes that may be lost in one `score()`."""
FAILED_STARTS = 3
HANGS_PER_WORKER = 3
MESSAGES_PER_WORKER = 2
FIRST_PACE = 0.002
"""Seconds a call is expected to take before one has been seen."""


class RewardLoadError(JobError):
    """The reward files of a version can't be imported. The finding has the Python line; `detail` the traceback."""

    def __init__(self, failure: LoadFailure) -> None:
        self.detail = failure.error
        finding = Finding(
            code="reward-import", message=failure.error.partition("\n")[0], file=failure.file, line=failure.line
        )
        super().__init__([finding])


class RewardHost:
    """Workers for one reward version.

    `folder` is a bundle's folder (`bundle.write`), `seed` the job's, `scratch` the only folder rewards should write to
    (their HOME, TMPDIR and current folder; a temporary one if None). Raises RewardLoadError.
    """

    def __init__(self, folder: Path, *, seed: int, workers: int = 2, scratch: Path | None = None) -> None:
        bundle = read(folder)
        self.version = bundle.sha256
        self.functions = tuple(bundle.functions)
        self._folder = folder.resolve()
        self._seed = seed
        self._size = workers
        self._own_scratch = scratch is None
        self._scratch = Path(tempfile.mkdtemp(prefix="rewards-")) if scratch is None else scratch.resolve()
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._pace = [FIRST_PACE] * len(self.functions)
        self._batch = Batch([], self.functions, step=0, split="train", give_up=1)
        self._workers: list[Worker] = []
        self._selector = selectors.DefaultSelector()
        self._zygote: Zygote | None = None
        self._lost = 0
        self._failed_starts = 0
        self._start_error = ""
        try:
            self._start()
        except LoadFailure as failure:
            self.close()
            raise RewardLoadError(failure) from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def score(self, groups: Sequence[GroupCall], *, step: int, split: str) -> list[list[Score]]:
        """One Score for every completion, group-major, and function, in the job's order: [n][F].

        Whatever a reward does is an outcome of its own call and raises nothing here. After 3 × `workers` time-outs of
        one function in a row, its calls that still wait are recorded as `timeout` without being started.
        """
        give_up = HANGS_PER_WORKER * self._size
        self._batch = Batch(groups, self.functions, step=step, split=split, give_up=give_up)
        self._lost = self._failed_starts = 0
        try:
            while not self._batch.is_done:
                self._refill()
                self._dispatch()
                self._listen(self._patience())
                self._enforce()
        finally:
            self._abandon()
        return self._batch.scores()

    def close(self) -> None:
        """Ends every process. Idempotent."""
        for worker in self._workers:
            self._forget(worker)
        self._workers = []
        if self._zygote is not None:
            self._selector.unregister(self._zygote.control)
            self._zygote.close()
            self._zygote = None
        self._selector.close()
        if self._own_scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)

    # ------------------------------------------------------------------------------------------------ processes

    def _start(self) -> None:
        """A zygote, and as many workers as may run at once; the spare comes by itself."""
        self._start_zygote()
        while sum(worker.state is State.READY for worker in self._workers) < self._size:
            self._refill()
            self._listen(self._patience())
            self._enforce()
            if self._failed_starts >= FAILED_STARTS or self._zygote is None:
                raise LoadFailure(self._start_error or "no worker could be started")

    def _start_zygote(self) -> None:
        self._zygote = Zygote(self._folder, self._seed, self._scratch)
        self._selector.register(self._zygote.control, selectors.EVENT_READ, None)

    def _refill(self) -> None:
        """One worker more than may be busy: a fresh one is always at hand."""
        if self._failed_starts >= FAILED_STARTS:
            self._batch.fail_waiting(self._start_error)
        elif self._zygote is not None:
            while len(self._workers) <= self._size:
                worker = self._zygote.fork(self._scratch)
                self._workers.append(worker)
                self._selector.register(worker.socket, selectors.EVENT_READ, worker)

    def _forget(self, worker: Worker) -> None:
        self._selector.unregister(worker.socket)
        worker.close()

    def _end(self, worker: Worker, why: str = "") -> None:
        """Kills the worker. What becomes of its calls is decided when the zygote tells that it is dead."""
        worker.why = worker.why or why
        worker.state = State.DYING
        worker.since = time.monotonic()
        worker.kill()

    def _abandon(self) -> None:
        """Leaves no worker behind that still has calls of a batch nobody waits for any more."""
        for worker in self._workers:
            if worker.messages:
                worker.messages.clear()
                self._end(worker)

    def _lose_zygote(self) -> None:
        """The zygote died or is stuck, and its workers with it. From here on one call at a time, to see whose doing."""
        assert self._zygote is not None
        self._selector.unregister(self._zygote.control)
        self._zygote.kill()
        self._zygote.close()
        self._zygote = None
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.kill()
            self._bury(worker, "its parent process died")
        self._lost += 1
        error = f"the parent process of the workers was lost {self._lost} times"
        if self._lost <= LOST_ZYGOTES:
            try:
                self._start_zygote()
                return
            except LoadFailure as failure:
                error = failure.error
        self._start_error = error
        self._batch.fail_waiting(error)

    # ------------------------------------------------------------------------------------------------ calls out

    def _dispatch(self) -> None:
        """Gives waiting calls to workers. Used workers before fresh ones, which calls to be tried alone need."""
        batch = self._batch
        if not batch.waiting and not batch.alone:
            return
        ready = [worker for worker in self._workers if worker.state is State.READY and not worker.is_last]
        busy = sum(bool(worker.messages) for worker in self._workers)
        most = 1 if self._lost else self._size
        for worker in sorted(ready, key=lambda worker: (len(worker.messages), worker.is_fresh)):
            if worker.is_fresh and batch.alone and (busy == 0 or not self._lost):
                self._give(worker, [batch.alone.popleft()])
                worker.is_last = True
                busy += 1
            elif worker.messages or busy < most:
                busy += not worker.messages
                if len(worker.messages) < MESSAGES_PER_WORKER and (calls := batch.take(self._pace)):
                    self._give(worker, calls)

    def _give(self, worker: Worker, calls: list[Call]) -> None:
        worker.give(calls, self._batch.message(calls))
        if worker.has_unsent:
            self._selector.modify(worker.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, worker)

    def _steal(self) -> None:
        """Takes the calls behind a slow one away when a worker has nothing to do. The slow one's worker is then ended."""
        if self._batch.waiting or not any(w.state is State.READY and not w.messages for w in self._workers):
            return
        now = time.monotonic()
        for worker in self._workers:
            if worker.state is State.READY and now > worker.since + STEAL_SECONDS and (calls := worker.unstarted()):
                worker.keep_only_current()
                worker.is_last = True
                self._batch.put_back(calls)

    # ------------------------------------------------------------------------------------------------ answers in

    def _listen(self, seconds: float) -> None:
        for key, events in self._selector.select(seconds):
            worker: Worker | None = key.data
            if worker is None:
                self._hear_of_deaths()
            elif worker in self._workers:
                if events & selectors.EVENT_WRITE:
                    self._send_rest(worker)
                if events & selectors.EVENT_READ:
                    self._hear(worker)

    def _send_rest(self, worker: Worker) -> None:
        worker.send()
        if not worker.has_unsent:
            self._selector.modify(worker.socket, selectors.EVENT_READ, worker)

    def _hear(self, worker: Worker) -> None:
        """Takes the answers that are there. A worker that says anything else, or closes its end, is killed."""
        try:
            frames, is_open = worker.receive()
            for frame in frames:
                if worker.state is State.STARTING:
                    self._greet(worker, frame)
                elif worker.current is not None and not worker.timed_out:
                    self._accept(worker, answer(frame))
        except ProtocolError as error:
            self._end(worker, f"the worker's channel was written to ({error})")
            return
        if not is_open and worker.state is not State.DYING:
            self._end(worker)
            self._selector.modify(worker.socket, selectors.EVENT_WRITE, worker) if False else None

    def _greet(self, worker: Worker, frame: bytes) -> None:
        hello = decode(frame)
        if hello == {}:
            worker.state, worker.since = State.READY, time.monotonic()
            self._failed_starts = 0
        else:
            self._start_error = str(hello.get("error", "")) if isinstance(hello, dict) else ""
            self._end(worker)

    def _accept(self, worker: Worker, said: Answer) -> None:
        call = worker.current
        if call is None or said.number != call.number:
            raise ProtocolError("an answer to another call")
        self._pace[call.function] += 0.2 * (said.seconds - self._pace[call.function])
        self._batch.record(
            call,
            said.outcome,
            value=said.value,
            reason=said.reason,
            error=said.error,
            output=said.output,
            seconds=said.seconds,
        )
        worker.answered()
        if worker.state is State.DUMPING:
            worker.state = State.READY
        if worker.is_last:
            self._end(worker)
