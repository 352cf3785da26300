"""Builders for reward tests."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from runner.rewards.bundle import Bundle, build, write
from runner.rewards.contract import GroupCall
from runner.rewards.guarantees import check
from runner.spec.model import Reward
from runner.spec.sandbox import Sandbox

needs_sandbox = pytest.mark.skipif(
    any(kept.state != "enforced" for kept in check(Sandbox())), reason="this system can't confine processes"
)


def bundle_of(folder: Path, source: str, **options: Any) -> Bundle:
    """The version of a job whose one reward is `rewards.py:score`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rewards.py").write_text(dedent(source), encoding="utf-8")
    return build({"score": Reward(fn="rewards.py:score", **options)}, folder)


def version_of(folder: Path, source: str, **options: Any) -> Path:
    return write(bundle_of(folder / "job", source, **options), folder / "rewards")


def group(completions: Sequence[str], example: Mapping[str, Any] | None = None) -> GroupCall:
    return GroupCall(prompt="p", example=example or {"answer": "42"}, completions=completions)


def processes_with(text: str) -> list[int]:
    """Pids of processes whose command line or working folder has the text."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if text in (entry / "cmdline").read_text(errors="replace") or text in os.readlink(entry / "cwd"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
