"""Runs reward calls in isolated processes: whatever a reward does costs exactly its own call.

One zygote per version imports the files once and forks workers. The host owns the deadlines: the first unanswered call
of a worker is the one that runs; over its time the worker is asked for its stack, killed, and a fresh one takes the
rest. A call whose worker died is tried once more alone, for a leftover of the call before may have done it.

One thread, one `score()` at a time; the zygote is ended by `close()`, or by the death of this process.
"""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import shutil
import signal
import tempfile
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from runner.rewards.bundle import interpreter, read
from runner.rewards.cache import Cache
from runner.rewards.calls import Batch, Call, Place
from runner.rewards.channel import BLOCK_SECONDS
from runner.rewards.contract import GroupCall, Outcome, Score
from runner.rewards.deaths import WRITTEN, death_of_fork, how_it_ended, readable_stack
from runner.rewards.frames import Answer, ProtocolError, answer, hello
from runner.rewards.meter import Meters
from runner.rewards.processes import (
    SILENCE_SECONDS,
    START_SECONDS,
    LoadFailure,
    RewardLoadError,
    State,
    Worker,
    Zygote,
    loaded,
)
from runner.rewards.sandbox import Settings
from runner.rewards.schedule import STEAL_SECONDS, messages, steal
from runner.rewards.teams import teams_of
from runner.rewards.texts import hide

SECONDS_IN = {State.STARTING: START_SECONDS, State.DUMPING: 0.005, State.DYING: 2.0}
"""Time for `setup()`; between two looks whether the stack is written; for the zygote to tell of a death."""
NO_STACK = "\n  (no stack available)"
LOST_ZYGOTES = 3
"""Zygotes that may be lost in one `score()`."""
FAILED_STARTS = 3
FIRST_WORKERS = 2
"""Workers that have to be there before the first call."""
HANGS_PER_WORKER = 3
FIRST_PACE = 0.002
"""Seconds a call is expected to take before one has been seen."""


class RewardHost:
    """Workers for one reward version.

    `folder` is a bundle's folder (`bundle.write`), `seed` the job's, `scratch` the only folder rewards can write to
    (their HOME, TMPDIR and current folder; a temporary one if None). `steps`: of the whole training, for
    `ctx.progress`. `settings`: what the job opens. Raises RewardLoadError.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        workers: int = 2,
        scratch: Path | None = None,
        steps: int | None = None,
        settings: Settings | None = None,
    ) -> None:
        bundle = read(folder)
        self.version = bundle.sha256
        self.functions = tuple(bundle.functions)
        self._folder = folder.resolve()
        self._python = interpreter(bundle)
        self._seed = seed
        self._steps = steps
        self._settings = settings or Settings()
        self._teams = teams_of(self.functions, workers)
        self._size = sum(team.size for team in self._teams)
        self._shortest = {team: min(self.functions[i].timeout for i in team.functions) for team in self._teams}
        self._meters = Meters(self.functions, self._settings.state)
        self._cache = Cache(self.version, self._settings.state)
        hide(self._settings.secrets)
        self._own_scratch = scratch is None
        self._scratch = Path(tempfile.mkdtemp(prefix="rewards-")) if scratch is None else scratch.resolve()
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._pace = [FIRST_PACE] * len(self.functions)
        self._batch = self._new_batch([], 0, "train")
        self._workers: list[Worker] = []
        self._selector = selectors.DefaultSelector()
        self._zygote: Zygote | None = None
        self._lost = 0
        self._failed_starts = 0
        self._start_error = LoadFailure("no worker could be started")
        try:
            self._start()
        except LoadFailure as failure:
            self.close()
            raise RewardLoadError(failure, self.functions[0].file) from None
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

        Whatever a reward does is an outcome of its own call and raises nothing here. After three times as many
        time-outs in a row as calls of a function may run at once, those that still wait are recorded as `timeout`
        without being started.
        """
        self._meters.load()
        self._batch = self._new_batch(groups, step, split)
        self._lost = self._failed_starts = 0
        try:
            self._revive()
            while not self._batch.is_done:
                self._refill()
                self._dispatch()
                self._listen()
                self._enforce()
        finally:
            self._abandon()
            self._meters.save()
        return self._batch.scores()

    def _new_batch(self, groups: Sequence[GroupCall], step: int, split: str) -> Batch:
        progress = min(step / self._steps, 1.0) if self._steps else 0.0
        return Batch(
            groups,
            self.functions,
            self._teams,
            self._meters.of,
            self._cache,
            place=Place(step=step, split=split, progress=progress),
            patience=HANGS_PER_WORKER,
        )

    def close(self) -> None:
        """Ends every process. Idempotent."""
        for worker in self._workers:
            self._unwatch(worker)
            worker.close()
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
        """A zygote, and workers; the others come as they are needed."""
        self._start_zygote()
        while sum(worker.state is State.READY for worker in self._workers) < min(self._size, FIRST_WORKERS):
            self._refill()
            self._listen()
            self._enforce()
            if self._failed_starts >= FAILED_STARTS or self._zygote is None:
                raise self._start_error

    def _start_zygote(self) -> None:
        policy, variables = self._settings.policy(self._folder, self._scratch), self._settings.variables(self._scratch)
        start = partial(Zygote, self._python, self._folder, self._seed, self._scratch, policy, variables)
        self._zygote = loaded(start)
        self._selector.register(self._zygote.control, selectors.EVENT_READ, None)

    def _refill(self) -> None:
        """One worker more than may be busy: a fresh one, which can join any team, is always at hand."""
        if self._failed_starts >= FAILED_STARTS or self._zygote is None:
            self._batch.fail_waiting(self._start_error.error)
            return
        while len(self._workers) <= self._size:
            worker = self._zygote.fork(self._scratch)
            self._workers.append(worker)
            self._selector.register(worker.socket, selectors.EVENT_READ, worker)

    def _unwatch(self, worker: Worker) -> None:
        if worker.state is not State.DYING:
            self._selector.unregister(worker.socket)

    def _end(self, worker: Worker, why: str = "") -> None:
        """Kills the worker. What becomes of its calls is decided when the zygote tells that it is dead."""
        if worker.state is not State.DYING:
            self._unwatch(worker)
            worker.why = why
            worker.seconds = time.monotonic() - worker.since
            worker.enter(State.DYING)
            worker.kill()

    def _abandon(self) -> None:
        """Leaves no worker with calls of a batch that nobody waits for any more."""
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
        failed_starts = self._failed_starts
        for worker in self._workers[:]:
            worker.kill()
            self._bury(worker, "lost its parent process")
        self._failed_starts = failed_starts  # those that were starting are not to blame
        self._lost += 1
        self._start_error = LoadFailure(f"the parent process of the workers was lost {self._lost} times")
        self._revive()

    def _revive(self) -> None:
        if self._zygote is None and self._lost <= LOST_ZYGOTES:
            try:
                self._start_zygote()
            except LoadFailure as failure:
                self._start_error = failure

    # ------------------------------------------------------------------------------------------------ calls out

    def _dispatch(self) -> None:
        for message in messages(self._batch, self._workers, self._pace, careful=self._lost > 0):
            worker = message.worker
            worker.give(message.calls, self._batch.message(message.calls, message.mode), message.team)
            if worker.has_unsent:
                self._selector.modify(worker.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, worker)

    # ------------------------------------------------------------------------------------------------ answers in

    def _listen(self) -> None:
        now = time.monotonic()
        patience = min([self._batch.next_start(now), *(self._due(worker) - now for worker in self._workers)])
        for key, events in self._selector.select(min(max(patience, 0), STEAL_SECONDS)):
            worker: Worker | None = key.data
            if worker is None:
                self._hear_of_deaths()
            elif worker in self._workers and worker.state is not State.DYING:
                if events & selectors.EVENT_WRITE:
                    self._send_rest(worker)
                self._hear(worker)

    def _send_rest(self, worker: Worker) -> None:
        worker.send()
        if not worker.has_unsent:
            self._selector.modify(worker.socket, selectors.EVENT_READ, worker)

    def _hear(self, worker: Worker) -> None:
        """Takes the answers that are there. A worker that says anything else, or closes its end, is killed."""
        try:
            is_open = worker.receive()
            self._take_all(worker, worker.frames())
        except ProtocolError as error:
            self._end(worker, f"{WRITTEN}{error}")
        else:
            if not is_open:
                self._end(worker)

    def _take_all(self, worker: Worker, frames: Iterable[bytes]) -> None:
        now, is_heard = time.monotonic(), False
        for frame in frames:
            self._take(worker, frame, now)
            is_heard = True
        if is_heard:
            worker.is_heard()

    def _take(self, worker: Worker, frame: bytes, now: float) -> None:
        if not worker.is_greeted:
            greeting = hello(frame)
            worker.is_greeted = True
            if greeting.error is None:
                self._failed_starts = 0
                worker.enter(State.READY)
            else:
                self._fail_start(worker, LoadFailure(greeting.error, greeting.file, greeting.line))
        elif not worker.is_last or worker.messages:
            said = answer(frame)
            call = worker.call(said.number)
            if call is None:
                raise ProtocolError("an answer to another call")
            self._accept(worker, call, said, now)

    def _accept(self, worker: Worker, call: Call, said: Answer, now: float) -> None:
        pace = self._pace[call.function]
        self._pace[call.function] = pace + 0.2 * (said.seconds - pace)
        if said.outcome == "killed":
            self._batch.fail(call, Outcome.KILLED, death_of_fork(said, self._folder), said.output, said.seconds)
        else:
            self._batch.record(call, said, now)
        worker.answered(call)
        if worker.is_last and not worker.messages:
            self._end(worker)

    # ------------------------------------------------------------------------------------------------ deadlines, deaths

    def _due(self, worker: Worker) -> float:
        """When something must be done about the worker unless it is heard of; first of all, to look what it does."""
        if worker.state is not State.READY:
            return worker.since + SECONDS_IN[worker.state]
        call, team = worker.current, worker.team
        if call is None or team is None:
            return math.inf
        patience = SILENCE_SECONDS if worker.runs_together else BLOCK_SECONDS
        exact = worker.is_looked_at or worker.runs_together
        return worker.since + patience + (self.functions[call.function].timeout if exact else self._shortest[team])

    def _enforce(self) -> None:
        now = time.monotonic()
        for worker in self._workers[:]:
            if worker in self._workers and self._due(worker) <= now:
                self._act_on(worker)
        steal(self._batch, self._workers)

    def _act_on(self, worker: Worker) -> None:
        """The deadline of the worker's state has come."""
        match worker.state:
            case State.STARTING:
                self._fail_start(worker, LoadFailure(f"setup() took longer than {START_SECONDS:g} s"))
            case State.READY:
                self._hear(worker)
                worker.look_at_draft()
                worker.is_looked_at = True
                if worker.state is State.READY and self._due(worker) <= time.monotonic():
                    worker.kill(signal.SIGUSR1)
                    worker.enter(State.DUMPING)
            case State.DUMPING if not worker.has_dumped():
                worker.enter(State.DUMPING)
            case State.DUMPING:
                worker.late = worker.current
                self._end(worker)
            case State.DYING:
                self._lose_zygote()

    def _fail_start(self, worker: Worker, error: LoadFailure) -> None:
        worker.is_greeted = True
        self._failed_starts += 1
        self._start_error = error
        self._end(worker)

    def _hear_of_deaths(self) -> None:
        assert self._zygote is not None
        try:
            for pid, status in self._zygote.deaths():
                for worker in [worker for worker in self._workers if worker.pid == pid]:
                    self._bury(worker, how_it_ended(os.waitstatus_to_exitcode(status)))
        except EOFError:
            self._lose_zygote()

    def _bury(self, worker: Worker, how: str) -> None:
        """Takes the dead worker's last answers, settles the call it died in and frees the others."""
        self._unwatch(worker)
        self._workers.remove(worker)
        if not worker.is_greeted:
            self._failed_starts += 1
            self._start_error = LoadFailure(f"a worker {how} before it was ready")
        worker.enter(State.DYING)
        if not worker.why:
            self._take_last_words(worker)
        call = worker.current
        if worker.runs_together:
            self._try_alone([call for message in worker.messages for call in message])
        elif call is not None and worker.why and call.deaths == 0:
            begun, *rest = worker.messages  # which of them wrote to the channel can't be told
            self._try_alone(begun)
            self._batch.put_back([call for message in rest for call in message])
        elif call is not None:
            self._batch.put_back(worker.unstarted())
            self._settle(worker, call, how)
        worker.close()

    def _take_last_words(self, worker: Worker) -> None:
        """What the dead worker has answered, sent or not."""
        self._hear(worker)
        worker.is_heard()
        with contextlib.suppress(ProtocolError):  # a reward wrote there: what it hit counts as not answered
            for said in map(answer, worker.draft()):
                if (call := worker.call(said.number)) is not None:
                    self._accept(worker, call, said, time.monotonic())

    def _try_alone(self, calls: Sequence[Call]) -> None:
        for call in calls:
            call.deaths = 1
        self._batch.alone.extend(calls)

    def _settle(self, worker: Worker, call: Call, how: str) -> None:
        """The call that a worker died in: over its time, or to be tried once more, or the cause of the death."""
        timeout = self.functions[call.function].timeout
        stack = readable_stack(worker.stack(), self._folder)
        if call is worker.late:
            error = f"no result after {timeout:g} s{stack or NO_STACK}"
            self._batch.fail(call, Outcome.TIMEOUT, error, worker.output(), timeout)
        elif worker.late is not None:  # answered at the last moment
            self._batch.put_back([call])
        elif call.deaths == 0:
            self._try_alone([call])
        else:
            error = f"the worker process {how}{worker.why}{stack}"
            self._batch.fail(call, Outcome.KILLED, error, worker.output(), worker.seconds)
