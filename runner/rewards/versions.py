"""The reward versions of a run as publishers and the trainer see them: the folder `<run>/rewards/`.

<sha256>/        the sources of a version (`runner.rewards.bundle`)
wanted           sha256 of the version that is to be live
proposed         sha256 of one that waits for a person's word (`reload: ask`)
published.jsonl  what was published or refused, in order
reference.json   the completions that every version scores, so that their means can be compared

Publishers write and the trainer reads, except for `reference.json`. What became of a version stands in the journal.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from runner.rewards.bundle import Bundle, read, write

By = Literal["submit", "edit", "call", "lab", "rollback", "accept"]
"""What a version was published by; `call` is `update_reward` of the Python API, `lab` the monitor's editor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A line of `published.jsonl`."""

    sha256: str
    """Of the version; for refused files, over the files as they stood."""
    by: By
    asks: bool = False
    """Waits for a person's word."""
    error: str | None = None
    """Why the files make no version: the first line is for people in a hurry."""
    at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Target:
    """The version that the trainer is to prepare."""

    sha256: str
    asks: bool


class Shelf:
    """One run's `rewards/` folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # What publishers do

    def publish(self, bundle: Bundle, by: By, *, asks: bool = False) -> None:
        """Puts the version's sources there and names it as the wanted one, or (`asks`) as the proposed one."""
        write(bundle, self.folder)
        self.want(bundle.sha256, by, asks=asks)

    def want(self, sha256: str, by: By, *, asks: bool = False) -> None:
        """Names a version that is there already. What was proposed before is off."""
        if asks:
            _replace(self._proposed, sha256)
        else:
            _replace(self._wanted, sha256)
            self._proposed.unlink(missing_ok=True)
        self._log(Publication(sha256=sha256, by=by, asks=asks, at=time.time()))

    def refuse(self, content: str, error: str) -> None:
        """Leaves word that the files whose hash is `content` make no version."""
        self._log(Publication(sha256=content, by="edit", error=error, at=time.time()))

    # What the trainer sees

    @property
    def wanted(self) -> str:
        return self._wanted.read_text().strip()

    @property
    def proposed(self) -> str | None:
        try:
            return self._proposed.read_text().strip()
        except FileNotFoundError:
            return None

    @property
    def target(self) -> Target:
        """The proposed version, else the wanted one."""
        proposed = self.proposed
        return Target(self.wanted, asks=False) if proposed is None else Target(proposed, asks=True)

    def path(self, sha256: str) -> Path:
        """The folder of a version."""
        return self.folder / sha256

    def bundle(self, sha256: str) -> Bundle:
        """The version as it was published. Raises ValueError when its files have been changed since, or are gone."""
        try:
            return read(self.path(sha256))
        except FileNotFoundError as error:
            raise ValueError(f"{error.filename}: not there; publish the rewards again") from None

    def publications(self, offset: int = 0) -> Iterator[tuple[Publication, int]]:
        """Complete lines of the log from byte `offset` on, each with the offset behind it."""
        try:
            file = self._published.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                yield Publication(**json.loads(line)), offset

    @property
    def reference(self) -> Path:
        """Written once, by the trainer: `stored` (`runner.rewards.vet.Stored`) and the first version's `means`."""
        return self.folder / "reference.json"

    @property
    def _wanted(self) -> Path:
        return self.folder / "wanted"

    @property
    def _proposed(self) -> Path:
        return self.folder / "proposed"

    @property
    def _published(self) -> Path:
        return self.folder / "published.jsonl"

    def _log(self, publication: Publication) -> None:
        """One write, so that lines of several publishers never mix."""
        line = json.dumps(asdict(publication)).encode() + b"\n"
        descriptor = os.open(self._published, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text)
    part.replace(path)


def in_words(event: Mapping[str, Any]) -> str:
    """A `version_changed` event for people. Empty for a version's retirement, which its successor tells."""
    name = f"reward version {event['number']}"
    match event["state"]:
        case "staged":
            word = "waits for `runner reward accept`" if event.get("asks") else "is ready"
            return f"{name} {word}{_changes(event)}"
        case "active":
            return f"{name} is live at step {event['first_step']}"
        case "rejected":
            return f"{name} refused: {event['error']}"
        case _:
            return ""


def _changes(event: Mapping[str, Any]) -> str:
    """`: format 0.42 → 0.61` for the functions whose scores have changed."""
    changed = [item for item in event.get("changes", ()) if item["before"] != item["after"]]
    means = [f"{item['name']} {_mean(item['before'])} → {_mean(item['after'])}" for item in changed]
    return f": mean of {', '.join(means)}" if means else ""


def _mean(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
