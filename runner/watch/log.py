"""One line for each event, for people or as JSON; and whoever else wants to hear of it (notifications)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

Level = Literal["info", "warning", "error"]
Listener = Callable[[dict[str, Any]], None]


class Log:
    """Called with the event's name and its fields; a field that is None is left out."""

    def __init__(self, *, as_json: bool = False, write: Callable[[str], None] | None = None) -> None:
        self._as_json = as_json
        self._write = write or _to_stdout
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Every event also goes to it."""
        self._listeners.append(listener)

    def __call__(self, event: str, *, level: Level = "info", **fields: Any) -> None:
        now = time.time()
        said = {name: value for name, value in fields.items() if value is not None}
        record: dict[str, Any] = {"at": round(now, 3), "level": level, "event": event, **said}
        self._write(
            json.dumps(record, ensure_ascii=False, default=str) if self._as_json else _line(now, level, event, said)
        )
        for listener in self._listeners:
            listener(record)


def _line(now: float, level: Level, event: str, fields: dict[str, Any]) -> str:
    mark = "" if level == "info" else f"{level.upper()} "
    said = " ".join(f"{name}={_value(value)}" for name, value in fields.items())
    return f"{time.strftime('%H:%M:%S', time.localtime(now))} {mark}{event} {said}".rstrip()


def _value(value: object) -> str:
    """As it stands where that is clear, else quoted: nothing from a job file reaches the terminal as a control."""
    text = str(value)
    return text if text.isprintable() and text and not set(text) & set(' "=') else json.dumps(text)


def _to_stdout(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
