"""Tells a webhook or a command what has happened. In a thread of its own: whoever is slow or gone delays nobody."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from runner.watch.config import Notify

TRIES = 3
TIMEOUT_SECONDS = 10.0
WAITING = 1000
"""Events that may wait to be told; more are dropped."""
_OF_THE_WATCH = frozenset(
    {"folder_unavailable", "files_missing", "store_unavailable", "database_rebuilt", "disk", "gpu_busy", "defect"}
)


class Notifier:
    """A listener of the log."""

    def __init__(self, targets: Sequence[Notify]) -> None:
        self._targets = targets
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name="notify", daemon=True)
        self.failures = 0
        self._thread.start()

    def __call__(self, record: dict[str, Any]) -> None:
        if kind_of(record) is not None:
            try:
                self._queue.put_nowait(record)
            except queue.Full:
                self.failures += 1

    def close(self, seconds: float = 5.0) -> None:
        """Tells what is still waiting, for a moment."""
        self._queue.put(None)
        self._thread.join(seconds)

    def _work(self) -> None:
        while (record := self._queue.get()) is not None:
            for target in self._targets:
                if kind_of(record) in target.on and not _tell(target, record):
                    self.failures += 1


def kind_of(record: dict[str, Any]) -> str | None:
    """The word of `notify.on` that the event falls under."""
    event = record["event"]
    if event == "run":
        return str(record["state"])
    if event in ("alert", "invalid"):
        return str(event)
    return "watch" if event in _OF_THE_WATCH else None


def _tell(target: Notify, record: dict[str, Any]) -> bool:
    text = json.dumps(record, ensure_ascii=False, default=str).encode() + b"\n"
    told = True
    if target.webhook is not None:
        told = any(_post(target.webhook, text) for _ in range(TRIES))
    if target.command is not None:
        told = _run(target.command, text) and told
    return told


def _post(address: str, text: bytes) -> bool:
    url = os.environ.get(address[1:], "") if address.startswith("$") else address
    try:
        request = urllib.request.Request(url, data=text, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
            return True
    except (OSError, ValueError, urllib.error.URLError):
        return False


def _run(command: Sequence[str], text: bytes) -> bool:
    try:
        done = subprocess.run(
            command, input=text, timeout=TIMEOUT_SECONDS, check=False,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
