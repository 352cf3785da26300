"""Home: the folder that holds `jobs/`, with our state in `.runner/` beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.journal.folder import RunFolder

if TYPE_CHECKING:
    from runner.store.store import Store


@dataclass(frozen=True, slots=True)
class Home:
    path: Path

    @property
    def state(self) -> Path:
        return self.path / ".runner"

    @property
    def jobs(self) -> Path:
        return self.path / "jobs"

    @property
    def database(self) -> Path:
        return self.state / "runner.db"

    def open(self) -> Store:
        """The store, created on first use. (Imported here: it costs half a second that checking a job need not pay.)"""
        from runner.store.store import Store

        self.state.mkdir(parents=True, exist_ok=True)
        ignore = self.state / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")
        return Store.open(self.database)

    def run(self, run_id: str) -> RunFolder:
        return RunFolder(self.state / "runs" / run_id)


def find_home(start: Path | None = None) -> Home:
    """$RUNNER_HOME, else the nearest folder at or above `start` (the working directory) that has `jobs/` or
    `.runner/`, else the working directory."""
    if chosen := os.environ.get("RUNNER_HOME"):
        return Home(Path(chosen).resolve())
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "jobs").is_dir() or (folder / ".runner").is_dir():
            return Home(folder)
    return Home(Path.cwd())
