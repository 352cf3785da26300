"""`runner run`, and how `emulate -d`, `resume` and `rerun` start and end: in the foreground or detached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from runner.cli.boundary import FAILED, INTERRUPTED, INVALID
from runner.cli.jobs import jobs_in
from runner.cli.options import DetachOption, DeviceOption, HomeOption, JobArgument, JsonOption, SetOption
from runner.cli.out import note, say, say_json
from runner.cli.text import clean_line

if TYPE_CHECKING:
    from runner.api import RunHandle

Start = Callable[[Path], "RunHandle"]


def run(
    job: JobArgument,
    device: DeviceOption = "gpu",
    set_: SetOption = None,
    detach: DetachOption = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Trains a job with TRL on the GPU. Ctrl-C stops it with a checkpoint."""
    from runner import api

    def start(path: Path) -> RunHandle:
        return api.run(path, device=device, overrides=set_ or (), home=home, wait=False, detach=detach)

    train(jobs_in(job, home), start, detach, json)


def train(paths: list[Path], start: Start, detach: bool, json: bool) -> None:
    """Starts each job and, unless detached, stays with it to its end. Ends with the exit code of the whole."""
    if len(paths) == 1:
        finish(start(paths[0]), detach, json)
        return
    results = list(_each(paths, start, detach, json))
    passed = sum(code == 0 for code, _ in results)
    if json:
        plain = [result for _, result in results]
        say_json({"runs": plain, "passed": passed, "failed": len(plain) - passed})
    else:
        say(f"{passed} passed, {len(results) - passed} failed")
    raise typer.Exit(code_of([code for code, _ in results]))


def _each(paths: list[Path], start: Start, detach: bool, json: bool) -> Any:
    """(exit code, JSON object) of each job; one that can't be run is told and does not hide the others."""
    from runner.spec.errors import JobError, render

    for path in paths:
        try:
            handle = start(path)
        except JobError as error:
            note(render(error.findings))
            findings = [asdict(finding) for finding in error.findings]
            yield INVALID, {"job": str(path), "state": "invalid", "findings": findings}
            continue
        code, result = conclude(handle, detach, json)
        yield code, result
        if code > 128:
            return


def finish(handle: RunHandle, detach: bool, json: bool, after: int = 0) -> None:
    """Stays with one started run to its end, shows what it came to, and exits with its code."""
    code, result = conclude(handle, detach, json, after)
    if json:
        say_json(result)
    raise typer.Exit(code)


def conclude(handle: RunHandle, detach: bool, json: bool, after: int = 0) -> tuple[int, dict[str, Any]]:
    """The exit code and the JSON object of a started run; the report is shown unless JSON was asked for."""
    from runner.cli import report
    from runner.cli.attend import attend

    if detach:
        if not json:
            say(handle.id)
        note(f"started; `runner logs {handle.id} -f` follows it, `runner cancel {handle.id}` ends it")
        return 0, {"run": handle.id, "state": str(handle.row.state)}
    note(f"{clean_line(handle.id)}: records in {report.shown_path(handle.folder)}")
    row, code = attend(handle, after)
    with handle.reading() as store:
        facts = report.read(store, row)
    if not json:
        report.show(facts, handle.home)
    return code, report.plain(facts)


def code_of(codes: Sequence[int]) -> int:
    """The code of several runs: theirs where the failed ones agree, else 1; an interruption is always told."""
    failed = {code for code in codes if code}
    interrupted = [code for code in failed if code > 128]
    if interrupted:
        return interrupted[0] if len(interrupted) == 1 else INTERRUPTED
    return failed.pop() if len(failed) == 1 else FAILED if failed else 0
