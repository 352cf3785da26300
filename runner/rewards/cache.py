"""Scores kept by what was scored, for rewards whose calls cost money: `cache: true`.

One line of JSON for each, in the run folder; a line that a dying process left half is passed over.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.rewards.contract import GroupCall, Outcome, Score


class Cache:
    """Scores of one reward version. Only answers are kept, never failures."""

    def __init__(self, version: str, folder: Path | None) -> None:
        self._version = version
        self._file = folder / "cache.jsonl" if folder is not None else None
        self._found: dict[str, tuple[float | None, str | None]] = {}
        if self._file is not None and self._file.exists():
            for line in self._file.read_text(encoding="utf-8").splitlines():
                self._read(line)

    def key(self, function: str, group: GroupCall, example: str, index: int) -> str:
        """sha256 over the version, the function, and all that the call is about."""
        parts = [self._version, function, group.prompt, group.completions[index], example]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def get(self, key: str, name: str) -> Score | None:
        if key not in self._found:
            return None
        value, reason = self._found[key]
        outcome = Outcome.NONE if value is None else Outcome.OK
        return Score(name=name, value=value, outcome=outcome, reason=reason, metrics={"cached": 1.0})

    def keep(self, key: str, score: Score) -> None:
        if score.outcome.is_error or key in self._found:
            return
        self._found[key] = (score.value, score.reason)
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "value": score.value, "reason": score.reason}) + "\n")

    def _read(self, line: str) -> None:
        try:
            kept: Mapping[str, Any] = json.loads(line)
            self._found[kept["key"]] = (kept["value"], kept["reason"])
        except (ValueError, KeyError):
            pass
