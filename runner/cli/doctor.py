"""`runner doctor`: what this machine offers. Only checks that look; nothing is guessed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import typer

from runner.cli.boundary import UNFIT
from runner.cli.options import HomeOption, JsonOption
from runner.cli.out import say, say_json
from runner.cli.text import clean_line, table
from runner.queue.home import Home

CORE = ("grpo-runner", "pydantic", "sqlite-utils", "typer", "rich", "pyarrow")
EMULATOR = ("torch", "tokenizers", "safetensors")
TRL = ("trl", "transformers", "peft", "accelerate", "vllm")
SAFE_SQLITE = (3, 51, 3)
"""First SQLite without the WAL bug that can corrupt a database with several writers."""
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    name: str
    verdict: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


def doctor(home: HomeOption = None, json: JsonOption = False) -> None:
    """Says what this machine offers. Versions, SQLite, GPU, what can be run here."""
    from runner.cli.jobs import home_of

    checks = [_python(), _sqlite(), _packages("emulate", EMULATOR), _packages("run", TRL), _gpu()]
    where = home_of(home)
    checks += [*_sandbox(), _writable(str(where.path)), _file_system(where), _settings(where), _watch(where)]
    if json:
        say_json({"checks": [asdict(check) for check in checks], "versions": dict(_versions())})
    else:
        lines = table((check.name, check.verdict, clean_line(check.found)) for check in checks)
        for check, line in zip(checks, lines, strict=True):
            say((line, STYLES[check.verdict] if check.verdict != "ok" else ""))
            if check.fix:
                say(f"    {check.fix}")
        say("versions  ", ", ".join(f"{name} {version}" for name, version in _versions()))
    if any(check.verdict == "fail" for check in checks):
        raise typer.Exit(UNFIT)


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    for name in (*CORE, *EMULATOR, *TRL):
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


def _python() -> Check:
    found = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    if sys.platform == "linux":
        return Check(name="system", verdict="ok", found=found)
    fix = "validate, plan and emulate work here; training is for Linux"
    return Check(name="system", verdict="warn", found=found, fix=fix)


def _sqlite() -> Check:
    from sqlite_utils import Database  # the one that the store uses, with the SQLite that it finds

    version: str = Database(memory=True).conn.execute("SELECT sqlite_version()").fetchone()[0]
    if tuple(map(int, version.split("."))) >= SAFE_SQLITE:
        return Check(name="sqlite", verdict="ok", found=version)
    fix = "before 3.51.3 several writers can corrupt a database; install pysqlite3"
    return Check(name="sqlite", verdict="warn", found=version, fix=fix)


def _packages(verb: str, names: tuple[str, ...]) -> Check:
    """Looks for the packages without importing them."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    extra = "emulator" if verb == "emulate" else "gpu"
    if not missing:
        return Check(name=verb, verdict="ok", found=f"has {', '.join(names)}")
    fix = f"pip install 'grpo-runner[{extra}]'"
    return Check(name=verb, verdict="warn", found=f"misses {', '.join(missing)}", fix=fix)


def _gpu() -> Check:
    none = Check(name="gpu", verdict="warn", found="none seen", fix="`runner emulate` needs none; `runner run` does")
    if shutil.which("nvidia-smi") is None:
        return none
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return Check(name="gpu", verdict="fail", found="nvidia-smi gives no answer", fix="the driver hangs: reboot")
    if done.returncode != 0 or not done.stdout.strip():
        return none
    return Check(name="gpu", verdict="ok", found="; ".join(done.stdout.strip().splitlines()))


def _sandbox() -> list[Check]:
    """What reward code can't do here, found by trying it."""
    from runner.rewards.guarantees import WAY_OUT, check
    from runner.spec.sandbox import Sandbox

    return [
        Check(name=f"rewards: {kept.name}", verdict="ok", found=f"enforced: {kept.why}")
        if kept.state == "enforced"
        else Check(name=f"rewards: {kept.name}", verdict="warn", found=f"NOT ENFORCED: {kept.why}", fix=WAY_OUT)
        for kept in check(Sandbox())
    ]


def _file_system(home: Home) -> Check:
    from runner.watch.machine import file_system, is_network

    kind = file_system(home.path)
    fix = "SQLite's log, locks and notifications can't be relied on there: use a local disk" if is_network(kind) else ""
    return Check(name="disk", verdict="fail" if fix else "ok", found=kind or "type unknown", fix=fix)


def _settings(home: Home) -> Check:
    """Of the watch: `runner.yaml`, which may be absent."""
    from runner.spec.errors import JobError
    from runner.watch.config import read_config

    try:
        config = read_config(home)
    except JobError as error:
        return Check(name="settings", verdict="fail", found=str(error), fix="see the README on `runner watch`")
    found = f"{config.capacity.cpu} runs at a time on the CPU, {config.capacity.gpu} on the GPU"
    return Check(name="settings", verdict="ok", found=found)


def _watch(home: Home) -> Check:
    from runner.watch.lock import holder

    who = holder(home)
    return Check(name="watch", verdict="ok", found=who or "no `runner watch` on this home")


def _writable(folder: str) -> Check:
    verdict = "ok" if os.access(folder, os.W_OK) else "fail"
    free = shutil.disk_usage(folder).free / 1e9
    fix = "" if verdict == "ok" else "choose another with --home or $RUNNER_HOME"
    return Check(name="home", verdict=verdict, found=f"{folder}, {free:.0f} GB free", fix=fix)
