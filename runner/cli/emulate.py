"""`runner emulate`: jobs in miniature on the CPU, checked, with a verdict that terminals and CI systems read alike."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.cli.options import DetachOption, HomeOption, JsonOption, SetOption
from runner.cli.out import say, say_json

if TYPE_CHECKING:
    from runner.api import RunHandle
    from runner.ci.checks import Asked, Result
    from runner.ci.warm import Warm

UNITS = {"s": 1, "m": 60, "h": 3600}


def _seeds(text: str) -> list[int]:
    """`0,1,2`. Raises BadParameter."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and int(part) < 2**32 for part in parts):
        raise typer.BadParameter(f"{text!r} is no list of seeds; write --seeds 0,1,2")
    return list(dict.fromkeys(map(int, parts)))


def _seconds(text: str) -> float:
    """`90s`, `5m`, `1h`. Raises BadParameter."""
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]+)?)([smh])", text)
    if found is None or float(found[1]) == 0:
        raise typer.BadParameter(f"{text!r} is no duration; write --time-budget 90s, 5m or 1h")
    return float(found[1]) * UNITS[found[2]]


def emulate(
    context: typer.Context,
    jobs: Annotated[
        list[str], typer.Argument(metavar="JOB", help="Jobs, or folders of jobs: as many at a time as there are cores.")
    ],
    set_: SetOption = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="0,1,2", help="A run for each; expectations are judged on the median.")
    ] = None,
    time_budget: Annotated[
        str | None, typer.Option(metavar="90s", help="After this everything is stopped: exit code 4.")
    ] = None,
    checks: Annotated[
        bool, typer.Option(help="Call the rewards twice, and try a resume. Other checks are always made.")
    ] = True,
    strict: Annotated[
        bool, typer.Option("--strict", help="Warnings fail: what the emulator can't honour, rewards without signal.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="The verdicts as JUnit XML.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="A report with curves, in one file.")] = None,
    artifacts: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Spec, journal, completions, metrics and report of every run.")
    ] = None,
    github: Annotated[
        bool | None,
        typer.Option("--github/--no-github", help="Annotations and a step summary. Default: where GitHub runs it."),
    ] = None,
    detach: DetachOption = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Trains jobs in miniature on the CPU, and checks them. Same job, rewards and records; a tiny model."""
    given = _seeds(seeds) if seeds is not None else None
    budget = _seconds(time_budget) if time_budget is not None else None
    if detach:
        if seeds or time_budget or junit or html or artifacts:
            raise typer.BadParameter("-d returns at once, so there is nothing to judge or to report yet")
        _detached(_paths(jobs, home), set_ or [], home, json)
        return
    from runner.ci.checks import Asked
    from runner.ci.warm import Warm
    from runner.cli.verdict import Reports, log_of_github

    paths = _paths(jobs, home)
    asked = Asked(seeds=given, checks=checks, strict=strict, overrides=set_ or (), home=home)
    reports = Reports(junit=junit, html=html, artifacts=artifacts, github=github)
    with context.obj or Warm.start() as warm, log_of_github(reports, json) as log:
        results = _all(paths, asked, warm, budget, json)
        reports.write(results, log)
    raise typer.Exit(_code(results))


def _paths(jobs: list[str], home: Path | None) -> list[Path]:
    from runner.cli.jobs import jobs_in

    return list(dict.fromkeys(path for name in jobs for path in jobs_in(name, home)))


def _detached(paths: list[Path], overrides: list[str], home: Path | None, json: bool) -> None:
    from runner import api
    from runner.cli.train import train

    def start(path: Path) -> RunHandle:
        return api.emulate(path, overrides=overrides, home=home, wait=False, detach=True)

    train(paths, start, True, json)


def _all(paths: list[Path], asked: Asked, warm: Warm, budget: float | None, json: bool) -> list[Result]:
    """Every job's verdict, in the order given; each is shown as soon as it is there."""
    from runner.ci.halt import Halt
    from runner.ci.pool import Pool, cores
    from runner.ci.task import Task
    from runner.cli import verdict

    tasks = [Task(path, asked, warm) for path in paths]
    halt = Halt(budget)
    alone = len(tasks) == 1
    pool = Pool(tasks, cores(), halt, verdict.follower(halt) if alone else None)
    results: dict[Path, Result] = {}
    for task in pool:
        result = results[task.path] = task.result()
        verdict.show_findings(result)
        if not json:
            verdict.show(result, whole=alone)
    ordered = [results[path] for path in paths]
    if json:
        say_json(_plain(ordered))
    elif not alone:
        passed = sum(result.passed for result in ordered)
        say(f"{passed} passed, {len(ordered) - passed} failed")
    return ordered


def _plain(results: list[Result]) -> dict[str, Any]:
    from runner.cli import verdict

    plain = [verdict.plain(result) for result in results]
    if len(plain) == 1:
        return plain[0]
    passed = sum(result.passed for result in results)
    return {"runs": plain, "passed": passed, "failed": len(plain) - passed}


def _code(results: list[Result]) -> int:
    from runner.cli.train import code_of

    return code_of([result.code for result in results])
