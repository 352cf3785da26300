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
    """The row's place; relative to the repository ($GITHUB_WORKSPACE, else the working directory) if it is inside."""
    if check.place is None or not check.place.file or check.place.file == OVERRIDE:
        return None
    root = Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd()).resolve()
    file = Path(check.place.file).resolve()
    shown = file.relative_to(root) if file.is_relative_to(root) else file
    return replace(check.place, file=str(shown))


def shown(check: Check) -> str:
    """`jobs/x/job.yaml:31`, or nothing."""
    place = place_of(check)
    if place is None:
        return ""
    return f"{place.file}:{place.line}" if place.line else place.file
