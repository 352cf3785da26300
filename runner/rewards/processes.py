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
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum, auto
from pathlib import Path

from runner.rewards.calls import Call
from runner.rewards.confine import Policy
from runner.rewards.frames import Answer, Hello, ProtocolError, hello, split
from runner.rewards.teams import Team
from runner.rewards.texts import OUTPUT_STARTS, is_ours, read_capture
from runner.spec.errors import Finding, JobError

START_SECONDS = 30.0
"""Deadline of the import, and of a worker's `setup()`."""
SILENCE_SECONDS = 1.0
"""How much longer than a call may take a worker with several calls may say nothing."""
CALL_SECONDS = 0.00001
"""What a worker does around a call."""
AHEAD_SECONDS = 0.002
"""Work that a worker may have before it: more than its host may nap."""
WRITTEN = "; its channel to the runner was written to: "
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

    def __init__(self, connection: socket.socket, output: int, stack: int) -> None:
        self.socket = connection
        self.state = State.STARTING
        self.since = time.monotonic()
        """When its state, or its current call, began."""
        self.messages: deque[deque[Call]] = deque()
        """Unanswered calls, by message. The first is the one that is running, unless they run together."""
        self.team: Team | None = None
        """Joined with the first message."""
        self.is_last = False
        """To be killed once its current call is answered: the others were given away."""
        self.is_greeted = False
        """Has said hello."""
        self.is_late = False
        """Was killed because its current call was over its time."""
        self._dumped = self._looks = 0
        self.seconds = 0.0
        """How long its last call had run when it was ended."""
        self.why = ""
        """What the host saw before the worker died, for the error text."""
        self.pid = 0
        self._pidfd: int | None = None
        self._output = output
        self._stack = stack
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
    def current(self) -> Call | None:
        return self.messages[0][0] if self.messages else None

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
            self.since = time.monotonic()
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
        """The call is answered; the next one runs from now."""
        first = self.messages[0]
        if first[0] is call:
            first.popleft()
            if not first:
                self.messages.popleft()
        else:
            self.messages.remove(deque([call]))
        if self.state is not State.DYING:
            self.state, self.since = State.READY, time.monotonic()

    def unstarted(self) -> list[Call]:
        """The calls behind the current one."""
        return [call for message in self.messages for call in message][1:]

    def keep_only_current(self) -> None:
        current = self.current
        self.messages = deque([deque([current])] if current else [])

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
        for descriptor in (self._output, self._stack, self._pidfd):
            if descriptor is not None:
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
        worker = Worker(ours, anonymous_file(scratch), anonymous_file(scratch))
        with contextlib.suppress(OSError):  # a zygote that is gone shows when it is read
            socket.send_fds(self.control, [b"F"], [theirs.fileno(), worker._output, worker._stack])  # pyright: ignore[reportPrivateUsage]
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


def environment(scratch: Path) -> dict[str, str]:
    """The whole environment of a reward: nothing of the trainer's."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
    }


def anonymous_file(scratch: Path) -> int:
    """A file without a name, in memory where the system can."""
    if sys.platform == "linux":
        return os.memfd_create("reward")
    with tempfile.TemporaryFile(dir=scratch) as file:
        return os.dup(file.fileno())


def readable_stack(dump: str, folder: Path) -> str:
    """faulthandler's dump, innermost first, as in our tracebacks: `rewards.py:12 in equation`. Less our own frames."""
    found = re.findall(r'^  File "(.*)", line (\d+) in (.*)$', dump, re.MULTILINE)
    lines = [
        f"\n  {file.removeprefix(f'{folder}/')}:{line} in {name}" for file, line, name in found if not is_ours(file)
    ]
    return "".join(lines[:20])


def how_it_ended(code: int) -> str:
    """`code` as `subprocess` has it: negative for a signal."""
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def death_of_fork(said: Answer, folder: Path) -> str:
    """The error of a call in isolation whose process died, as its worker tells it."""
    code, _, dump = (said.error or "").partition("\n")
    why = f"{WRITTEN}{said.reason}" if said.reason else ""
    return f"the worker process {how_it_ended(int(code))}{why}{readable_stack(dump, folder)}"


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
        env={**environment(scratch), **variables},
        pass_fds=[control.fileno()],
        start_new_session=True,
    )
