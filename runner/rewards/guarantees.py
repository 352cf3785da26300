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
from typing import Any

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


def check(sandbox: Sandbox) -> list[GuaranteeRow]:
    """Tries what the job's sandbox forbids. Takes a tenth of a second.

    `why` says what a guarantee means; or what the job opened; or what could be done all the same and what is missing.
    """
    if sys.platform != "linux":
        why = f"{sys.platform} has no means that we know"
        return [GuaranteeRow(name=name, state="not enforced", why=why) for name in LAYERS]
    with ExitStack() as stack:
        scratch, outside = (Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2))
        policy = policy_of(sandbox, scratch, scratch, Path.cwd())
        found = _probe(policy, _trials(outside, stack), scratch)
    return [_kept(name, sandbox, found) for name in LAYERS]


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


def _probe(policy: Policy, trials: Mapping[str, Any], scratch: Path) -> Mapping[str, Any]:
    command = [sys.executable, "-s", "-P", str(Path(__file__).with_name("probe.py"))]
    done = subprocess.run(
        [*command, json.dumps(policy), json.dumps(trials)],
        capture_output=True,
        text=True,
        cwd=scratch,
        env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=PROBE_SECONDS,
    )
    if done.returncode != 0:
        why = f"the probe ended with status {done.returncode}: {done.stderr.strip()[-500:]}"
        return {"missing": {layer: why for layers in LAYERS.values() for layer in layers}, "done": None}
    return json.loads(done.stdout)


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
