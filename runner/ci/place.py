"""Where in the job's file a row points, as the reader of a report can open it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from runner.ci.checks import Check
from runner.spec.errors import Finding

OVERRIDE = "--set"
"""The `file` of what the command line gave; there is no such file to point into."""


def place_of(check: Check) -> Finding | None:
    """The row's place, its file as `relative` gives it."""
    if check.place is None or not check.place.file or check.place.file == OVERRIDE:
        return None
    return replace(check.place, file=relative(Path(check.place.file)))


def relative(path: Path) -> str:
    """The file as seen from the repository ($GITHUB_WORKSPACE, else the working directory), if it is inside."""
    root, file = Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd()).resolve(), path.resolve()
    return str(file.relative_to(root) if file.is_relative_to(root) else file)


def shown(check: Check) -> str:
    """`jobs/x/job.yaml:31`, or nothing."""
    place = place_of(check)
    if place is None:
        return ""
    return f"{place.file}:{place.line}" if place.line else place.file
