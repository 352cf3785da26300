"""How the death of a reward process is told."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from runner.rewards.frames import Answer
from runner.rewards.texts import is_ours

WRITTEN = "; its channel to the runner was written to: "


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
