"""What the sandbox keeps on this machine: found by trying, before a run starts and for `runner doctor`.

Nothing is concluded from a kernel's version or from settings: a throw-away process is confined as a reward worker is,
tries every forbidden act, and what it managed to do is not guaranteed.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from runner.journal.events import GuaranteeRow
from runner.rewards.confine import Policy
from runner.rewards.landlock import SCOPE_ABI
from runner.rewards.sandbox import policy_of
from runner.spec.sandbox import Guarantee, Sandbox

PROBE_SECONDS = 60
MEANING: dict[Guarantee, str] = {
    "memory": "a reward process takes no more memory than it may",
    "network": "no connections",
    "filesystem": "reads the job's rewards, Python and the system's libraries; writes to its scratch folder",
    "secrets": "nothing of the trainer's environment or memory",
    "signals": "can't signal processes outside",
    "subprocess": "can't start processes",
}
LAYERS: dict[Guarantee, tuple[str, ...]] = {
    "memory": ("limits",),
    "network": ("seccomp", "landlock"),
    "filesystem": ("landlock",),
    "secrets": ("landlock", "capabilities"),
    "signals": ("scope", "landlock", "capabilities"),
    "subprocess": ("no_processes", "seccomp"),
}
"""Which layers keep a guarantee."""


_found: dict[str, list[GuaranteeRow]] = {}
"""What was found in this process, or in the one that it is a fork of, by the sandbox as JSON."""


def check(sandbox: Sandbox) -> list[GuaranteeRow]:
    """Tries what the job's sandbox forbids. Takes a tenth of a second, once in a process for each sandbox.

    `why` says what a guarantee means; or what the job opened; or what could be done all the same and what is missing.
    """
    if sandbox.model_dump_json() not in _found:
        with Trial(sandbox) as trial:
            trial.finish()
    return _found[sandbox.model_dump_json()]


class Trial:
    """A check that goes on beside what its process does next; `finish` waits for what was found."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._stack = ExitStack()
        self._probe: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        if sys.platform == "linux":
            scratch, outside = (Path(self._stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2))
            policy = policy_of(self._sandbox, scratch, scratch, Path.cwd())
            self._probe = self._stack.enter_context(_probe(policy, _trials(outside, self._stack), scratch))
            self._stack.callback(self._probe.kill)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def finish(self) -> None:
        """`check` knows the answer from here on."""
        if self._probe is None:
            why = f"{sys.platform} has no means that we know"
            rows = [GuaranteeRow(name=name, state="not enforced", why=why) for name in LAYERS]
        else:
            found = _told(self._probe)
            rows = [_kept(name, self._sandbox, found) for name in LAYERS]
        _found[self._sandbox.model_dump_json()] = rows


def unmet(sandbox: Sandbox, kept: Sequence[GuaranteeRow]) -> list[str]:
    """What `sandbox.require` asks for and is not enforced, in words with the way out."""
    return [
        f"sandbox.require: {item.name} is {item.state} on this machine: {item.why}. {WAY_OUT}"
        for item in kept
        if item.name in sandbox.require and item.state != "enforced"
    ]


WAY_OUT = f"Run it where `runner doctor` shows it as enforced (Linux with Landlock {SCOPE_ABI} keeps them all)"


def _trials(outside: Path, stack: ExitStack) -> dict[str, Any]:
    file = outside / "file"
    file.write_text("")
    name = f"runner-probe-{secrets.token_hex(8)}"
    listener = stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
    abstract.bind("\0" + name)
    for each in (listener, abstract):
        each.listen()
    return {"runner": os.getpid(), "outside": str(file), "port": listener.getsockname()[1], "abstract": name}


def _probe(policy: Policy, trials: Mapping[str, Any], scratch: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-s", "-P", str(Path(__file__).with_name("probe.py"))]
    return subprocess.Popen(
        [*command, json.dumps(policy), json.dumps(trials)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=scratch,
        env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
    )


def _told(probe: subprocess.Popen[str]) -> Mapping[str, Any]:
    out, error = probe.communicate(timeout=PROBE_SECONDS)
    if probe.returncode != 0:
        why = f"the probe ended with status {probe.returncode}: {error.strip()[-500:]}"
        return {"missing": {layer: why for layers in LAYERS.values() for layer in layers}, "done": None}
    return json.loads(out)


def _kept(name: Guarantee, sandbox: Sandbox, found: Mapping[str, Any]) -> GuaranteeRow:
    opened = _opened(name, sandbox)
    managed: list[str] = found["done"][name] if found["done"] is not None else ["anything"]
    if managed:
        lacking = [f"{layer}: {found['missing'][layer]}" for layer in LAYERS[name] if layer in found["missing"]]
        return GuaranteeRow(name=name, state="not enforced", why="; ".join([f"could {', '.join(managed)}", *lacking]))
    return GuaranteeRow(name=name, state="open" if opened else "enforced", why=opened or MEANING[name])


def _opened(name: Guarantee, sandbox: Sandbox) -> str:
    if name == "network" and sandbox.network is True:
        return "sandbox.network: true"
    if name == "subprocess" and sandbox.subprocess:
        return "sandbox.subprocess: true"
    return ""
