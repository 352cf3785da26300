"""What a person finds about a job file: a row of `jobs`, and `.runner/status/<name>.json` for those without SQLite."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from runner.journal.failpoints import failpoint
from runner.journal.folder import read_json
from runner.queue.home import Home
from runner.spec.errors import Finding
from runner.store import queries
from runner.store.rows import JobRow
from runner.store.store import Store

JobState = Literal["valid", "invalid", "missing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a job file stands."""

    name: str
    path: str
    """Relative to the home."""
    state: JobState
    """`missing`: gone in a way that a person should look at; its runs are left alone."""
    revision: str | None = None
    """The last sound one that was seen."""
    aliases: tuple[str, ...] = ()
    """Names the job had before its file was renamed: their runs are its runs."""
    findings: tuple[Finding, ...] = ()

    def same(self, other: Status | None) -> bool:
        return self == other


class Records:
    """Writes what changed, in one transaction for many files."""

    def __init__(self, home: Home, store: Store) -> None:
        self._store = store
        self._folder = home.state / "status"
        self._written: dict[str, Status] = {}
        self._due: dict[str, Status] = {}

    def restore(self) -> list[Status]:
        """What the watch before this one knew."""
        return [self._restored(row) for row in queries.jobs(self._store)]

    def _restored(self, row: JobRow) -> Status:
        kept = read_json(self._file(row.name)) or {}
        return Status(
            name=row.name,
            path=row.path,
            state="invalid" if row.state == "invalid" else "valid",
            revision=row.revision or kept.get("revision"),
            aliases=tuple(kept.get("aliases", ())),
        )

    def put(self, status: Status) -> bool:
        """Notes how a file stands. Whether that is news."""
        news = not status.same(self._due.get(status.name) or self._written.get(status.name))
        if news:
            self._due[status.name] = status
        return news

    def remove(self, name: str) -> None:
        """Forgets a file; its runs stay."""
        self._due.pop(name, None)
        self._written.pop(name, None)
        self._store.remove_job(name)
        self._file(name).unlink(missing_ok=True)

    def flush(self, now: float) -> None:
        """Writes everything that `put` was given. Raises StoreUnavailable; what is due stays due."""
        if not self._due:
            return
        self._store.put_jobs([_row(status, now) for status in self._due.values()])
        failpoint("watch.status")
        self._folder.mkdir(exist_ok=True)
        for status in self._due.values():
            _replace(self._file(status.name), {**asdict(status), "at": now})
        self._written |= self._due
        self._due = {}

    def _file(self, name: str) -> Path:
        return self._folder / f"{name.replace('/', '--')}.json"


def _replace(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all for readers. (Not synced: the database has it, and ten thousand syncs take minutes.)"""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=1))
    part.replace(path)


def _row(status: Status, now: float) -> JobRow:
    return JobRow(
        name=status.name,
        path=status.path,
        revision=status.revision,
        state=status.state,
        errors=_plain(status.findings),
        seen_at=now,
    )


def _plain(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    return [asdict(finding) for finding in findings]
