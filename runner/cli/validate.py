"""`runner validate`: jobs with their data and rewards, running none of their code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from runner.cli.boundary import INVALID
from runner.cli.jobs import jobs_in, jobs_of_home
from runner.cli.options import HomeOption, JsonOption, SetOption
from runner.cli.out import note, say, say_json
from runner.cli.text import clean_line, plural
from runner.spec.errors import Finding, JobError, render


def validate(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="JOB", help="Jobs, or folders of jobs. Default: every job in jobs/."),
    ] = None,
    set_: SetOption = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Checks jobs, their data and rewards. None of their code is run."""
    found = [path for name in paths for path in jobs_in(name, home)] if paths else jobs_of_home(home)
    results = [_check(path, set_ or ()) for path in found]
    if json:
        say_json({"jobs": [_plain(path, findings) for path, findings in results]})
    else:
        for path, findings in results:
            _show(path, findings)
    if any(finding.severity == "error" for _, findings in results for finding in findings):
        raise typer.Exit(INVALID)


def _check(path: Path, overrides: Sequence[str]) -> tuple[Path, Sequence[Finding]]:
    """Errors and warnings of one job, so that one bad file hides no other."""
    from runner.queue import jobs

    try:
        return path, jobs.validate(path, overrides).warnings
    except JobError as error:
        return path, error.findings


def _show(path: Path, findings: Sequence[Finding]) -> None:
    """The verdict is the result; what is wrong goes to stderr, as from a compiler."""
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = plural(len(findings) - errors, "warning")
    if findings:
        note(render(findings))
    if errors:
        say(("invalid", "bold red"), f"  {clean_line(str(path))}  {plural(errors, 'error')}")
    else:
        say(("ok", "green"), f"  {clean_line(str(path))}", f"  {warnings}" if findings else "")


def _plain(path: Path, findings: Sequence[Finding]) -> dict[str, Any]:
    from dataclasses import asdict

    valid = not any(finding.severity == "error" for finding in findings)
    return {"path": str(path), "valid": valid, "findings": [asdict(finding) for finding in findings]}
