"""The host's ends of the zygote and of its workers: start, talk without blocking, kill, read what is left.

Signals go through pidfds where the system has them: a number may by then belong to somebody else.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum, auto
from itertools import chain, islice
from pathlib import Path

from runner.rewards.calls import Call
from runner.rewards.channel import DRAFT_BYTES, read_draft
from runner.rewards.confine import Policy
from runner.rewards.deaths import how_it_ended, readable_stack
from runner.rewards.frames import Hello, ProtocolError, answer, hello, split
from runner.rewards.teams import Team
from runner.rewards.texts import OUTPUT_STARTS, read_capture
from runner.spec.errors import Finding, JobError

START_SECONDS = 30.0
"""Deadline of the import, and of a worker's `setup()`."""
SILENCE_SECONDS = 1.0
"""How much longer than a call may take a worker with several calls may say nothing."""
CALL_SECONDS = 0.00001
"""What a worker does around a call."""
AHEAD_SECONDS = 0.002
"""Work that a worker may have before it: more than it does before it tells of it."""
RECORD = struct.Struct("<cii")
ROOM = Path(__file__).parent


class State(Enum):
    """Where a worker stands."""

    STARTING = auto()
    READY = auto()
    DUMPING = auto()
    """Its call is over the deadline: it was asked for its stack."""
    DYING = auto()
    """Killed; the zygote's word that it is dead is awaited."""


class LoadFailure(Exception):
    """The reward files can't be imported."""

    def __init__(self, error: str, file: str = "", line: int = 0, *, was_killed: bool = False) -> None:
        self.error, self.file, self.line = error, file, line
        self.was_killed = was_killed
        super().__init__(error)


MISSING_MODULE = "name the package that has it in the job's `packages:`, as `packages: [sympy]`"


class RewardLoadError(JobError):
    """The reward files of a version can't be imported. The finding has the Python line; `detail` the traceback."""

    def __init__(self, failure: LoadFailure, file: str) -> None:
        self.detail = failure.error
        message = failure.error.partition("\n")[0]
        hint = MISSING_MODULE if message.startswith("ModuleNotFoundError") else ""
        where = failure.file or file
        super().__init__([Finding(code="reward-import", message=message, hint=hint, file=where, line=failure.line)])


class Worker:
    """One worker process and the calls it was given."""

    def __init__(self, connection: socket.socket, scratch: Path) -> None:
        self.socket = connection
        self.state = State.STARTING
        self.since = time.monotonic()
        """When its state, or its first unanswered call, began."""
        self.messages: deque[deque[Call]] = deque()
        """Unanswered calls, by message. Unless they run together, the one behind those drafted is running."""
        self._drafted = 0
        """Calls, of those unanswered, whose answers stand in the draft."""
        self.is_looked_at = False
        """By the time that a call was due: from then on until it is heard of, it is known which one runs."""
        self.team: Team | None = None
        """Joined with the first message."""
        self.is_last = False
        """To be killed once its current call is answered: the others were given away."""
        self.is_greeted = False
        """Has said hello."""
        self.late: Call | None = None
        """The call that it was killed for: it was over its time."""
        self._dumped = self._looks = 0
        self.seconds = 0.0
        """How long its last call had run when it was ended."""
        self.why = ""
        """What the host saw before the worker died, for the error text."""
        self.pid = 0
        self._pidfd: int | None = None
        self._output, self._stack, self._draft = (anonymous_file(scratch) for _ in range(3))
        os.ftruncate(self._draft, DRAFT_BYTES)
        os.lseek(self._draft, DRAFT_BYTES, os.SEEK_SET)  # what a careless reward writes to every descriptor goes there
        self._unread = bytearray()
        self._unsent = bytearray()

    def is_forked(self, pid: int, pidfd: int | None) -> None:
        self.pid, self._pidfd = pid, pidfd
        if self.state is State.DYING:
            self.kill()

    def enter(self, state: State) -> None:
        self.state, self.since = state, time.monotonic()

    @property
    def is_fresh(self) -> bool:
        """Has run no call yet."""
        return self.team is None

    @property
    def runs_together(self) -> bool:
        return self.team is not None and self.team.mode == "together" and not self.is_last

    @property
    def descriptors(self) -> list[int]:
        """What the process is given, besides its socket."""
        return [self._output, self._stack, self._draft]

    @property
    def current(self) -> Call | None:
        """The call that is running, as far as is known; of several the one that was given first."""
        return next(islice(self._unanswered(), self._drafted, None), None)

    def _unanswered(self) -> Iterator[Call]:
        return chain.from_iterable(self.messages)

    def look_at_draft(self) -> None:
        """Finds out which call is running."""
        self._drafted = 0
        all_but_last = list(self._unanswered())[:-1]
        with contextlib.suppress(ProtocolError):
            for call, frame in zip(all_but_last, self.draft(), strict=False):
                if answer(frame).number != call.number:
                    break
                self._drafted += 1

    def draft(self) -> Iterator[bytes]:
        """The frames of answers that it has not sent yet. Raises ProtocolError."""
        return split(bytearray(read_draft(self._draft)))

    def call(self, number: int) -> Call | None:
        """The call that an answer with this number is to; None if it can't be."""
        for message in self.messages:
            if message[0].number == number:
                return message[0]
            if not self.runs_together:
                break
        return None

    def work(self, pace: Sequence[float]) -> float:
        """Seconds that its unanswered calls may take. `pace`: of a call, by function."""
        if self.team is None:
            return 0.0
        functions = self.team.functions
        mean = sum(pace[function] for function in functions) / len(functions)
        return sum(map(len, self.messages)) * (mean + CALL_SECONDS)

    def is_idle_for(self, team: Team) -> bool:
        """Whether a message of the team would be worked on at once."""
        return not self.messages and self.has_room(team, ())

    def has_room(self, team: Team, pace: Sequence[float]) -> bool:
        """Whether another message may be given: as many as its team allows, and of fast calls some more."""
        if self.state is not State.READY or self.is_last or self.team not in (None, team):
            return False
        is_quick = not team.one_by_one and not self.has_unsent
        return len(self.messages) < team.messages or (is_quick and self.work(pace) < AHEAD_SECONDS)

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def give(self, calls: list[Call], message: bytes, team: Team) -> None:
        if not self.messages:
            self.since, self.is_looked_at = time.monotonic(), False
        self.messages.append(deque(calls))
        self.team = team
        self._unsent += message
        self.send()

    def send(self) -> None:
        """Writes what the socket takes now. A worker that is gone shows when it is read."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while self._unsent:
                del self._unsent[: self.socket.send(self._unsent)]

    def receive(self) -> bool:
        """Takes in what the worker has sent; False once it has closed its end."""
        is_open = True
        try:
            while data := self.socket.recv(1 << 16):
                self._unread += data
                if len(data) < 1 << 16:
                    break
            else:
                is_open = False
        except BlockingIOError:
            pass
        except ConnectionResetError:
            is_open = False
        return is_open

    def frames(self) -> Iterator[bytes]:
        """The complete frames received, each once. Raises ProtocolError for one too large."""
        return split(self._unread)

    def answered(self, call: Call) -> None:
        """The call is answered."""
        first = self.messages[0]
        if first[0] is call:
            first.popleft()
            if not first:
                self.messages.popleft()
        else:
            self.messages.remove(deque([call]))

    def is_heard(self) -> None:
        """It has just answered; the next call runs from now."""
        self._drafted, self.is_looked_at = 0, False
        if self.state is not State.DYING:
            self.state, self.since = State.READY, time.monotonic()

    def unstarted(self) -> list[Call]:
        """The calls behind the current one."""
        return list(self._unanswered())[self._drafted + 1 :]

    def drop_unstarted(self) -> None:
        begun = list(self._unanswered())[: self._drafted + 1]
        self.messages = deque([deque(begun)] if begun else [])

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Signals the process. Its group and what it detached are the zygote's to kill when it is dead."""
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            elif self.pid:
                os.kill(self.pid, number)

    def has_dumped(self) -> bool:
        """Whether its stack is written, as far as one can tell: a stopped process never does, so it has 20 looks."""
        before, self._dumped = self._dumped, os.fstat(self._stack).st_size
        self._looks += 1
        return 0 < before == self._dumped or self._looks >= 20

    def output(self) -> str | None:
        """What the current call has printed."""
        return read_capture(self._output, start=OUTPUT_STARTS)

    def stack(self) -> str:
        """What faulthandler wrote when the worker was asked, or crashed."""
        return read_capture(self._stack, 16384) or ""

    def close(self) -> None:
        self.socket.close()
        for descriptor in (*self.descriptors, *([] if self._pidfd is None else [self._pidfd])):
            os.close(descriptor)


class Zygote:
    """The process that forks the workers of one version.

    Raises LoadFailure when the reward files can't be imported within `START_SECONDS`.
    """

    def __init__(
        self, python: str, folder: Path, seed: int, scratch: Path, policy: Policy, variables: Mapping[str, str]
    ) -> None:
        self.control, theirs = socket.socketpair()
        self._expected: deque[Worker] = deque()
        self._folder = folder
        output = anonymous_file(scratch)
        try:
            with theirs:  # ours would keep the end of the zygote from being seen
                self._process = _spawn(python, folder, seed, scratch, policy, variables, theirs, output)
            self._wait_until_loaded(output)
        except BaseException:
            self.control.close()
            raise
        finally:
            os.close(output)

    def fork(self, scratch: Path) -> Worker:
        """Asks for a worker. It is there when it says hello."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        worker = Worker(ours, scratch)
        with contextlib.suppress(OSError):  # a zygote that is gone shows when it is read
            socket.send_fds(self.control, [b"F"], [theirs.fileno(), *worker.descriptors])
        theirs.close()
        self._expected.append(worker)
        return worker

    def deaths(self) -> Iterator[tuple[int, int]]:
        """Pid and wait status of workers that have died; on the way, tells workers their pid. Raises EOFError."""
        while True:
            try:
                record, descriptors, _, _ = socket.recv_fds(self.control, RECORD.size, 1)
            except BlockingIOError:
                return
            except ConnectionResetError:
                record, descriptors = b"", []
            if len(record) < RECORD.size:
                raise EOFError("the zygote is gone")
            what, pid, status = RECORD.unpack(record)
            if what == b"F" and self._expected:
                self._expected.popleft().is_forked(pid, descriptors[0] if descriptors else None)
            else:
                yield pid, status

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """Ends the zygote, which takes its workers along."""
        self.control.close()
        try:
            self._process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait_until_loaded(self, output: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        unread = bytearray()
        frames: list[bytes] = []
        try:
            while not frames:
                self.control.settimeout(max(deadline - time.monotonic(), 0.001))
                data = self.control.recv(1 << 16)
                unread += data
                frames = list(split(unread))
                if not data:
                    break
            report = hello(frames[0]) if frames else Hello(error=self._exit_text())
        except TimeoutError:
            report = self._hang(output)
        except ProtocolError as error:
            report = Hello(error=f"the import wrote to the runner's channel: {error}")
        if report.error is not None:
            was_killed = self._process.poll() == -signal.SIGKILL
            self._process.kill()
            self._process.wait()
            printed = read_capture(output)
            text = report.error + (f"\noutput:\n{printed}" if printed else "")
            raise LoadFailure(text, report.file, report.line, was_killed=was_killed)
        self.control.setblocking(False)

    def _exit_text(self) -> str:
        self._process.wait()
        return f"the import ended its process: it {how_it_ended(self._process.returncode)}"

    def _hang(self, output: int) -> Hello:
        printed = os.fstat(output).st_size
        self._process.send_signal(signal.SIGUSR1)
        time.sleep(0.1)
        stack = readable_stack(os.pread(output, 16384, printed).decode(errors="replace"), self._folder)
        os.ftruncate(output, printed)
        text = f"the import took longer than {START_SECONDS:g} s{stack}"
        place = re.search(r"^  ([^/<].*):(\d+) in ", stack, re.MULTILINE)
        return Hello(error=text, file=place[1], line=int(place[2])) if place else Hello(error=text)


def anonymous_file(scratch: Path) -> int:
    """A file without a name, in memory where the system can."""
    if sys.platform == "linux":
        return os.memfd_create("reward")
    with tempfile.TemporaryFile(dir=scratch) as file:
        return os.dup(file.fileno())


def _spawn(
    python: str,
    folder: Path,
    seed: int,
    scratch: Path,
    policy: Policy,
    variables: Mapping[str, str],
    control: socket.socket,
    output: int,
) -> subprocess.Popen[bytes]:
    arguments = [str(control.fileno()), str(folder), str(seed), str(os.getpid()), json.dumps(policy), "early"]
    return subprocess.Popen(
        [python, "-s", "-P", "-u", str(ROOM / "zygote.py"), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd=scratch,
        env=variables,
        pass_fds=[control.fileno()],
        start_new_session=True,
    )


def loaded(start: Callable[[], Zygote]) -> Zygote:
    """An import that was killed, which is often the kernel short of memory, is tried once more, as a call is."""
    try:
        return start()
    except LoadFailure as failure:
        if not failure.was_killed:
            raise
    return start()
