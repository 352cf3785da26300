"""What a person sees of a verdict, and where the reports go."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from runner.api import RunHandle
from runner.ci import artifacts, github
from runner.ci.checks import AS_ASKED, Check, Result, Trial, Verdict
from runner.ci.halt import Halt
from runner.ci.html import is_mean, is_told, page
from runner.ci.junit import junit
from runner.ci.place import shown
from runner.cli import report
from runner.cli.attend import follow
from runner.cli.out import Line, note, say
from runner.cli.text import clean, clean_line, number, table
from runner.cli.words import EMULATED
from runner.spec.errors import render

SIGNS = {
    Verdict.PASSED: ("✓", "green"),
    Verdict.WARNED: ("!", "yellow"),
    Verdict.FAILED: ("✗", "red"),
    Verdict.ERROR: ("✗", "red"),
    Verdict.SKIPPED: ("–", "dim"),
}
COUNTED = {
    Verdict.PASSED: "passed",
    Verdict.WARNED: "with a warning",
    Verdict.FAILED: "failed",
    Verdict.ERROR: "could not be judged",
    Verdict.SKIPPED: "not applicable",
}


def follower(halt: Halt) -> Callable[[RunHandle], None]:
    """Stays with one run, its progress on stderr."""

    def stay(handle: RunHandle) -> None:
        note(f"{clean_line(handle.id)}: records in {report.shown_path(handle.folder)}")
        follow(handle, halt)

    return stay


def show_findings(result: Result) -> None:
    """What is wrong with a job that could not be started, to stderr."""
    if result.findings:
        note(render(result.findings))


def show(result: Result, *, whole: bool) -> None:
    """The verdict of one job, to stdout: behind the report of its run (`whole`), or in a few lines."""
    if result.findings:
        if not whole:
            say(EMULATED, "  ", (clean_line(result.job), "bold"), "  ", ("invalid, see above", "red"))
        return
    several = len(result.trials) > 1
    for trial in result.trials:
        _show_run(trial, whole=whole and not several)
    for line in _seeds(result.trials) if several else ():
        say(*line)
    if whole and result.trials:
        say()
    if not result.trials:
        say(EMULATED, f"  {clean_line(result.job)}")
    for line in _lines(result):
        say(*line)


def _show_run(trial: Trial, *, whole: bool) -> None:
    if not whole:
        say(*report.headline(trial.run))
        return
    with trial.handle.reading() as store:
        facts = report.read(store, trial.run)
    report.show(facts, trial.handle.home)


def _seeds(trials: Sequence[Trial]) -> Iterator[Line]:
    """Where each seed ended, and the median: means of the last tenth of the steps, the last evaluation."""
    names = [name for name in trials[0].metrics if name.removeprefix("eval/") == "reward" or is_mean(name)]
    ends = [[_end(trial, name) for trial in trials] for name in names]
    head = ("", *(f"seed {trial.seed}" for trial in trials), "median")
    rows = [
        (clean_line(name.removesuffix("/mean")), *map(number, values), number(median(known) if known else None))
        for name, values in zip(names, ends, strict=True)
        for known in [[value for value in values if value is not None]]
    ]
    for line in table([head, *rows], right=range(1, len(head))):
        yield ["  ", line]


def _end(trial: Trial, name: str) -> float | None:
    found = report.change(trial.metrics.get(name, ()), 0.0 if name.startswith("eval/") else report.ENDS)
    return found.last if found else None


def _lines(result: Result) -> Iterator[Line]:
    """How many rows of each verdict, and every row that a person should see."""
    counts = [f"{n} {word}" for verdict, word in COUNTED.items() if (n := result.count(verdict))]
    yield [("checks", "bold"), f"     {', '.join(counts)}"]
    rows = [check for check in result.checks if is_told(check) and not _is_difference(check)]
    cells = [(_name(check), clean_line(check.found), shown(check)) for check in rows]
    for check, text in zip(rows, table(cells), strict=True):
        yield ["  ", SIGNS[check.verdict], f" {clean_line(text)}"]


def _name(check: Check) -> str:
    return clean_line(f"{check.name}  {check.asked}".strip())


def _is_difference(check: Check) -> bool:
    """The report tells those, unless they fail."""
    return check.name == AS_ASKED and not check.verdict.is_failure


def plain(result: Result) -> dict[str, Any]:
    """The verdict as JSON; with the run's own values where there is one run, a list of them where there are several."""
    verdict = artifacts.plain(result)
    runs = [_plain_run(trial) for trial in result.trials]
    if not runs:
        return {**verdict, "state": "invalid" if result.findings else "not started"}
    if len(runs) == 1:
        return {**verdict, **runs[0]}
    return {**verdict, "runs": runs}


def _plain_run(trial: Trial) -> dict[str, Any]:
    with trial.handle.reading() as store:
        return {"seed": trial.seed, **report.plain(report.read(store, trial.run))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reports:
    """Which reports are wanted, and where."""

    junit: Path | None
    html: Path | None
    artifacts: Path | None
    github: bool | None
    """None: where GitHub Actions runs us."""

    @property
    def is_github(self) -> bool:
        return os.environ.get("GITHUB_ACTIONS") == "true" if self.github is None else self.github

    def write(self, results: Sequence[Result], log: Callable[[Sequence[str]], None]) -> None:
        """All of them. `log` takes GitHub's commands."""
        if self.junit is not None:
            _write(self.junit, junit(results))
        if self.html is not None:
            _write(self.html, page(results))
        if self.artifacts is not None:
            artifacts.write_artifacts(results, self.artifacts)
            note(f"artifacts: {clean(str(self.artifacts))}")
        if self.is_github:
            log(list(github.commands(results)))
            if path := os.environ.get("GITHUB_STEP_SUMMARY"):
                with open(path, "a", encoding="utf-8") as file:
                    file.write(github.summary(results))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    note(f"written: {clean(str(path))}")


@contextmanager
def log_of_github(reports: Reports, json: bool) -> Generator[Callable[[Sequence[str]], None]]:
    """Where commands to GitHub are written: only through what this gives are they commands, for whatever else is
    printed meanwhile may hold a model's words. stdout, unless JSON goes there."""
    stream = sys.stderr if json else sys.stdout
    token = secrets.token_hex(16)

    def log(commands: Sequence[str]) -> None:
        print(github.resume_commands(token), *commands, github.stop_commands(token), sep="\n", file=stream, flush=True)

    if not reports.is_github:
        yield log
        return
    print(github.stop_commands(token), file=stream, flush=True)
    try:
        yield log
    finally:
        print(github.resume_commands(token), file=stream, flush=True)
