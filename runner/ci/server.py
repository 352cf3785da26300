"""The warm process: `python -m runner.ci.server CONTROL_FD [lm]`.

Imports once, forks for every request, and holds no state of any run. It has one thread, so a fork is a whole copy: the
thread pools of numpy's and torch's libraries are kept at one thread here and grow in the trainers, which set their own
number. Ends when its starter is gone.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Generator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn

ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
FOR_LM = "emulator.lm.warm"
REAP_SECONDS = 0.2
MAX_REQUEST = 8192
HELD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Held back from the end of the imports to where a child has its handlers, so that no stop is lost or kills what it
should stop."""


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))  # it is not wanted after all
    changed = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    gc.disable()  # it would look through all that is imported again and again: a tenth of the time; children collect
    for module in ("runner.backends.__main__", "runner.ci.probe", "emulator.backend"):
        import_module(module)
    with _sandbox_tried():
        if "lm" in sys.argv[2:]:
            _import_lm()
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _settle()
    Server(control, changed).serve()


class Server:
    """Takes requests until the starter has closed its end."""

    def __init__(self, control: socket.socket, environment: dict[str, str | None]) -> None:
        self._control = control
        self._environment = environment
        self._probes: set[int] = set()

    def serve(self) -> None:
        try:
            while True:
                ready, _, _ = select.select([self._control], [], [], REAP_SECONDS)
                self._reap()
                if ready and not self._take():
                    return
        finally:
            for pid in self._probes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _take(self) -> bool:
        """One request: a fork and its pid as the answer. False when the starter is gone."""
        content, descriptors, _, _ = socket.recv_fds(self._control, MAX_REQUEST, 4)
        if not content:
            return False
        request: dict[str, Any] = json.loads(content)
        folder = Path(request["folder"])
        _import_for(folder)
        pid = os.fork()
        if pid == 0:
            gc.enable()
            self._become(request, folder, descriptors)
        if request["do"] == "probe":
            self._probes.add(pid)
        for descriptor in descriptors:
            os.close(descriptor)
        self._control.send(str(pid).encode())
        return True

    def _become(self, request: dict[str, Any], folder: Path, descriptors: Sequence[int]) -> NoReturn:
        """The child: never returns."""
        code = 1
        try:
            self._control.close()
            os.setsid()
            for name, value in self._environment.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
            if request["do"] == "train":
                lock, pipe, life = descriptors
                _supervise(folder, request["attempt"], request["run"], lock, pipe, life)
            else:
                _probe(folder, descriptors[0])
            code = 0
        finally:
            os._exit(code)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                self._probes.discard(pid)


def _import_for(folder: Path) -> None:
    """What this run's trainer will import; where that fails, the trainer fails by itself and says so in its log."""
    spec = json.loads((folder / "spec.json").read_text())
    if spec["job"]["emulator"]["policy"] == "lm" and FOR_LM not in sys.modules:
        _import_lm()
        _settle()


def _import_lm() -> None:
    with contextlib.suppress(ImportError):
        import_module(FOR_LM)


@contextlib.contextmanager
def _sandbox_tried() -> Generator[None]:
    """Tries meanwhile, once for all runs, what this machine keeps of the sandbox that most jobs have. Where that fails,
    each run tries by itself and says so."""
    from runner.rewards.guarantees import Trial
    from runner.spec.sandbox import Sandbox

    fails = OSError, ValueError, subprocess.SubprocessError
    with contextlib.ExitStack() as stack:
        trial: Trial | None = None
        with contextlib.suppress(*fails):
            trial = stack.enter_context(Trial(Sandbox()))
        yield
        if trial is not None:
            with contextlib.suppress(*fails):
                trial.finish()


def _settle() -> None:
    """Keeps the collector from touching (and so copying) in every child what all of them share."""
    gc.freeze()


def _supervise(folder: Path, attempt: int, run_id: str, lock: int, pipe: int, life: int) -> None:
    from runner.queue.supervise import supervise

    os.environ["RUNNER_RUN_ID"] = run_id
    supervise(folder, attempt, pipe, partial(_start_trainer, folder, attempt, (pipe, life)))


def _start_trainer(folder: Path, attempt: int, not_its: Sequence[int], log: IO[bytes]) -> Forked:
    from runner.backends.__main__ import attend
    from runner.journal.folder import RunFolder
    from runner.queue.supervise import die_with_parent

    die_along = die_with_parent()
    pid = os.fork()
    if pid == 0:
        _be_trainer(lambda: attend(RunFolder(folder), attempt), die_along, not_its, log)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
    return Forked(pid)


def _be_trainer(
    train: Callable[[], int], die_along: Callable[[], None] | None, not_its: Sequence[int], log: IO[bytes]
) -> NoReturn:
    """As a process of its own would be: own handlers, nothing of the supervisor's open but the lock."""
    code = 1
    try:
        if die_along is not None:
            die_along()
        signal.set_wakeup_fd(-1)
        for number in (*HELD, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGHUP})
        for descriptor in not_its:
            os.close(descriptor)
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        code = train()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Forked:
    """A forked child, as `runner.queue.supervise.Trainer`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def wait(self) -> int:
        code = self._wait(0)
        assert code is not None, "waited for it"
        return code

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _probe(folder: Path, life: int) -> None:
    from runner.ci.probe import probe
    from runner.journal.folder import RunFolder

    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
    found = probe(RunFolder(folder))
    with os.fdopen(life, "wb") as pipe:
        pipe.write(found.to_json())


if __name__ == "__main__":
    try:
        main()
    except SystemExit:
        pass
    finally:
        os._exit(0)  # nothing to flush; taking torch apart costs a quarter of a second
