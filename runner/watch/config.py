"""How `runner watch` itself is set: `runner.yaml` beside `jobs/`, or `.runner/config.yaml`. As strict as a job."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from runner.queue.home import Home
from runner.spec import document
from runner.spec.document import DataPath, Document
from runner.spec.errors import Finding, JobError
from runner.spec.model import Count, Duration, Section, Text

GIB = 1 << 30


class Capacity(Section):
    """How many runs go at once."""

    cpu: Count = max(1, (os.cpu_count() or 2) // 2)
    """Emulated runs, and runs with `--device cpu`. Unset: half of the CPUs."""
    gpu: Count = 1
    """Runs on the GPU. More than one only where their memory is known to fit."""


class Notify(Section):
    """Tells somebody."""

    webhook: Text | None = None
    """Gets each event as a JSON object by POST. `$NAME` takes the address from the environment."""
    command: Annotated[list[Text], Field(min_length=1)] | None = None
    """Gets each event as a JSON object, a line, on stdin."""
    on: list[
        Literal["succeeded", "failed", "held", "cancelled", "timed_out", "running", "alert", "invalid", "watch"]
    ] = Field(default_factory=lambda: ["succeeded", "failed", "held", "timed_out", "alert", "watch"])
    """Of what: states of runs, alerts, files that became invalid, trouble of the watch itself."""


class Config(Section):
    """What `runner watch` may do on this machine."""

    capacity: Capacity = Capacity()
    """How many runs go at once."""
    min_free_gib: Annotated[float, Field(ge=0)] | None = None
    """No run is started with less room on the disk. Unset: 5 for a run on the GPU, 0.5 else; and always twice the
    last checkpoint of the run."""
    stalled_after: Duration = "10m"
    """An alert is raised for a run that has recorded and printed nothing for so long."""
    backup_every: Duration = "1h"
    """The database is copied to `.runner/backups` so often; three copies are kept."""
    notify: list[Notify] = Field(default_factory=list[Notify])
    """Who is told."""

    def free_needed(self, slot: str, checkpoint: int) -> int:
        """Bytes that have to be free before a run starts whose last checkpoint has so many."""
        usual = 5.0 if slot == "gpu" else 0.5
        return max(int((usual if self.min_free_gib is None else self.min_free_gib) * GIB), 2 * checkpoint)


def read_config(home: Home) -> Config:
    """Raises JobError with every finding."""
    places = [path for path in (home.path / "runner.yaml", home.state / "config.yaml") if path.exists()]
    if not places:
        return Config()
    if len(places) == 2:
        message, hint = f"{places[0]} and {places[1]} both configure the watch", "keep one of them"
        raise JobError([Finding(code="duplicate", message=message, hint=hint, file=str(places[1]))])
    path = places[0]
    read = document.parse(document.decode(path.read_bytes(), str(path)), str(path))
    try:
        config = Config.model_validate(read.value)
    except ValidationError as error:
        found = [*(item for _, item in read.faults), *(_finding(fault, read, path) for fault in error.errors())]
        raise JobError(found) from None
    if read.faults:
        raise JobError([item for _, item in read.faults])
    return config


def _finding(fault: Any, read: Document, path: Path) -> Finding:
    at: DataPath = tuple(part for part in fault["loc"])
    place = next((p for p in (read.keys.get(at), read.values.get(at), read.values.get(at[:-1])) if p), read.values[()])
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(at[-1]), _FIELDS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(_FIELDS)}"
        return document.finding(place, "unknown-field", "no such field", hint, document.dotted(at))
    return document.finding(place, "value", str(fault["msg"]), "see the README on `runner watch`", document.dotted(at))


_FIELDS = [name for section in (Config, Capacity, Notify) for name in section.model_fields]
