"""The parent of the reward workers of one version: imports the reward files once, then forks a worker on request.

Executed by its path in a bare interpreter (standard library only, nothing of ours, an environment made from nothing),
so that a fork takes 2 ms and inherits neither CUDA, threads nor secrets from the trainer. It sees to it that no process
outlives the host: it is a subreaper, kills whatever its workers leave behind, and goes when the host is gone.

Arguments: control descriptor, bundle folder, seed, the host's pid, the sandbox's policy as JSON, `early` or `late`
import. The policy holds before the first line of the user's code is executed. On the control socket
the host writes `F` with four descriptors (socket, output, stack, draft) for each worker it wants. The zygote
writes one JSON frame when it has loaded, then records `<cii`: `F`, pid with the pidfd beside it; `D`, pid, wait status.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import faulthandler
import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any, NoReturn, TypedDict

CO_COROUTINE = 0x80  # inspect.CO_COROUTINE
LINUX = sys.platform == "linux"
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SWEEP = 0.25
"""Seconds between two looks for orphans and for the host."""


class FunctionSpec(TypedDict):
    """An entry of `functions` in `bundle.json`, as far as workers need it."""

    name: str
    module: str
    attribute: str
    timeout: float


class Loaded:
    """The reward functions of a version, imported."""

    def __init__(self, folder: str, specs: list[FunctionSpec]) -> None:
        modules = {spec["module"]: importlib.import_module(spec["module"]) for spec in specs}
        self.folder = folder
        self.names = [spec["name"] for spec in specs]
        self.functions: list[Callable[..., Any]] = [
            getattr(modules[spec["module"]], spec["attribute"]) for spec in specs
        ]
        self.timeouts = [spec["timeout"] for spec in specs]
        self.takes_ctx = [takes_ctx(function) for function in self.functions]
        for spec, function in zip(specs, self.functions, strict=True):
            if not callable(function):
                raise TypeError(f"{spec['module']}.{spec['attribute']} is no function")
        if any(is_async(function) for function in self.functions):
            importlib.import_module("asyncio")  # 80 ms, which else the first call's deadline would pay for
        self.setups = [module.setup for module in modules.values() if callable(getattr(module, "setup", None))]


def takes_ctx(function: Any) -> bool:
    code = _code(function)
    return code is not None and "ctx" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def is_async(function: Any) -> bool:
    code = _code(function)
    return code is not None and bool(code.co_flags & CO_COROUTINE)


def _code(function: Any) -> CodeType | None:
    """`inspect` does this too, and takes 30 ms to import."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return getattr(function, "__code__", None)


def main(control_fd: int, folder: str, seed: str, host: int, policy: dict[str, Any], when: str) -> None:
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    _first_to_be_killed()
    sys.dont_write_bytecode = False  # our own files only: compiling them takes longer than all the rest
    worker, confine, texts = (_sibling(name) for name in ("worker", "confine", "texts"))
    sys.dont_write_bytecode = True
    _sibling("refusals").remember(policy)
    texts.hide({name: os.environ[name] for name in policy["hidden"]})
    confine.confine(policy)
    # The host's starting thread waits for the import, so its death is the host's; later that would not be so.
    _die_with_parent(host)
    specs = json.loads(Path(folder, "bundle.json").read_bytes())["functions"]
    sys.path.insert(0, folder)
    loaded = None
    if when == "early":
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=False)
        loaded = _load(texts, folder, specs, control)
        if _threads() > 1:  # a fork would have locks of threads that it doesn't have
            control.set_inheritable(True)
            os.execv(sys.executable, [*sys.orig_argv[:-1], "late"])
    sys.stdout.flush()
    _send(control, {})
    _prctl(PR_SET_PDEATHSIG, 0)
    gc.collect()
    gc.freeze()
    run = partial(
        worker.run, load=lambda: loaded or Loaded(folder + "/", specs), folder=folder + "/", seed=seed, policy=policy
    )
    Zygote(control, host, run).serve()


def _load(texts: ModuleType, folder: str, specs: list[FunctionSpec], control: socket.socket) -> Loaded:
    """Imports every reward file; tells the host what is wrong and exits if that fails."""
    try:
        return Loaded(folder + "/", specs)
    except BaseException as error:  # also exit() at module level
        _send(control, texts.failure(error, folder + "/"))
        os._exit(1)


class Zygote:
    """Forks, reaps, sweeps. `run` is the life of a worker, given its descriptors."""

    def __init__(self, control: socket.socket, host: int, run: Callable[..., NoReturn]) -> None:
        self._control = control
        self._host = host
        self._run = run
        self._workers: set[int] = set()
        self._wake, wake_end = os.pipe()
        for end in (self._wake, wake_end):
            os.set_blocking(end, False)
        self._wake_end = wake_end
        signal.signal(signal.SIGCHLD, _ignore)
        signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)

    def serve(self) -> NoReturn:
        try:
            while os.getppid() == self._host:
                ready, _, _ = select.select([self._control, self._wake], [], [], SWEEP)
                if self._wake in ready:
                    os.read(self._wake, 4096)
                self._reap()
                self._sweep()
                if self._control in ready and not self._take_request():
                    break
        finally:
            self._end()

    def _take_request(self) -> bool:
        request, descriptors, _, _ = socket.recv_fds(self._control, 1, 4)
        if request == b"F":
            self._fork(descriptors)
        return bool(request)

    def _fork(self, descriptors: list[int]) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self._become_worker(parent)
                self._run(descriptors)
            finally:
                os._exit(1)
        self._workers.add(pid)
        for descriptor in descriptors:
            os.close(descriptor)
        self._tell(b"F", pid, 0)

    def _become_worker(self, parent: int) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._control.close()
        os.close(self._wake)
        os.close(self._wake_end)
        os.setsid()
        _die_with_parent(parent)

    def _reap(self) -> None:
        """Tells of dead workers. A dead leader's number is taken until it is reaped, so its group is killed first."""
        for pid in list(self._workers):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            self._workers.discard(pid)
            self._tell(b"D", pid, status)

    def _sweep(self) -> None:
        """Kills every child that is no worker: what a reward detached came to us as the subreaper."""
        for pid in _children():
            if pid not in self._workers:
                with contextlib.suppress(ProcessLookupError, ChildProcessError):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, os.WNOHANG)

    def _tell(self, what: bytes, pid: int, status: int) -> None:
        record = struct.pack("<cii", what, pid, status)
        pidfd = os.pidfd_open(pid) if what == b"F" and hasattr(os, "pidfd_open") else None
        rights = [] if pidfd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))]
        self._control.sendmsg([record], rights)
        if pidfd is not None:
            os.close(pidfd)

    def _end(self) -> NoReturn:
        """Kills workers and orphans until there are none; each kill may bring more orphans."""
        for pid in self._workers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self._workers.clear()
        until = time.monotonic() + 2
        while time.monotonic() < until:
            self._sweep()
            try:
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                break
            time.sleep(0.001)
        os._exit(0)


def _ignore(number: int, frame: FrameType | None) -> None:
    """A handler, so that the signal wakes `select`."""


def _children() -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


def _threads() -> int:
    try:
        return os.stat("/proc/self/task").st_nlink - 2
    except OSError:
        return 1


def _sibling(name: str) -> ModuleType:
    """A module of this folder, in a package of its own making: what the user's interpreter has under `runner` is not
    ours to touch."""
    package = "reward_process"
    if package not in sys.modules:
        here = Path(__file__).parent
        spec = importlib.util.spec_from_file_location(
            package, here / "__init__.py", submodule_search_locations=[str(here)]
        )
        assert spec is not None
        sys.modules[package] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{package}.{name}")


def _send(control: socket.socket, value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    control.sendall(struct.pack("<I", len(body)) + body)


def _prctl(option: int, value: int) -> None:
    if LINUX:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _die_with_parent(parent: int) -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it died before we asked


def _first_to_be_killed() -> None:
    """When memory runs out the kernel takes a reward process, not the trainer."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), json.loads(sys.argv[5]), sys.argv[6])
