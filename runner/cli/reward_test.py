"""`runner reward test`: reward functions on completions that are there, before any training."""

from __future__ import annotations

from bdb import BdbQuit
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from runner.cli.boundary import FAILED, INTERRUPTED
from runner.cli.options import HomeOption, JsonOption, SetOption
from runner.cli.out import Line, note, say, say_json
from runner.cli.text import clean_line, cut, indent, number, plural, table
from runner.preview import Trial
from runner.rewards.contract import Score
from runner.rewards.figures import FunctionFigures

ORIGINS = {
    "recorded": "recorded in the run",
    "file": "from the file",
    "dataset": "from the dataset's own column",
    "emulated": "drawn by the emulator, from its own small model or recording",
}
SLOW = 0.1
"""Seconds of a call from which on the batch waits for the rewards."""


def test(
    target: Annotated[str, typer.Argument(metavar="JOB|FILE.py", help="A job, or a file.py or file.py:function.")],
    completions: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, metavar="FILE", help="Rows with `completions`, to try them on."),
    ] = None,
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Try them on what this run has recorded.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Dataset rows to take.")] = 16,
    n: Annotated[int, typer.Option("-n", min=1, help="Completions to draw for each, where none are there.")] = 4,
    show: Annotated[int, typer.Option(min=0, metavar="N", help="Show the first N completions with their scores.")] = 4,
    debug: Annotated[
        bool, typer.Option("--debug", help="In this process, unprotected: breakpoint() and pdb work.")
    ] = False,
    set_: SetOption = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Tries reward functions. On completions given, recorded or emulated: values, times, errors, spread, steadiness."""
    from runner.preview import try_rewards

    try:
        trial = try_rewards(
            target, completions=completions, run=run, rows=rows, n=n, overrides=set_ or (), home=home, debug=debug
        )
    except BdbQuit:
        note("stopped in the debugger")
        raise typer.Exit(INTERRUPTED) from None
    if json:
        say_json(plain(trial))
    else:
        for line in lines(trial, show):
            say(*line)
    if trial.failed:
        note(("failed: ", "bold red"), f"{plural(trial.failed, 'call')} of {sum(f.calls for f in trial.figures)}")
        raise typer.Exit(FAILED)


def plain(trial: Trial) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "version": trial.version,
        "origin": trial.origin,
        "functions": [{**asdict(figures), "failed": figures.failed} for figures in trial.figures],
        "completions": [
            {"prompt": prompt, "completion": text, "scores": {score.name: _plain_score(score) for score in row}}
            for prompt, text, row in _rows(trial)
        ],
    }


def _plain_score(score: Score) -> dict[str, Any]:
    found = {name: getattr(score, name) for name in ("value", "outcome", "reason", "error", "output", "seconds")}
    return {name: value for name, value in found.items() if value is not None}


def _rows(trial: Trial) -> Iterator[tuple[str, str, list[Score]]]:
    texts = ((group.prompt, text) for group in trial.groups for text in group.completions)
    for (prompt, text), row in zip(texts, trial.scores, strict=True):
        yield prompt, text, list(row)


def lines(trial: Trial, show: int) -> Iterator[Line]:
    total = len(trial.scores)
    yield [f"{plural(total, 'completion')} in {plural(len(trial.groups), 'group')}, {ORIGINS[trial.origin]}"]
    for prompt, text, row in list(_rows(trial))[:show]:
        yield [""]
        yield [("> " + clean_line(cut(prompt, 160)), "cyan")]
        yield from ([line] for line in indent(clean_line(cut(text, 240)), "│ "))
        yield from (_score_line(score) for score in row)
    yield [""]
    yield from ([line] for line in table([HEAD, *(_cells(item) for item in trial.figures)], right=range(1, 8)))
    for figures in trial.figures:
        yield from _remarks(figures)


def _score_line(score: Score) -> Line:
    said = clean_line(score.reason or "")
    value = number(score.value) if score.outcome == "ok" else str(score.outcome)
    return [f"  {clean_line(score.name)} {value}", f"  {said}" if said else ""]


HEAD = ["reward", "weight", "mean", "least", "most", "spread", "p50", "p95", "columns"]


def _cells(item: FunctionFigures) -> list[str]:
    return [
        clean_line(item.name),
        f"{item.weight:g}",
        *(number(value) for value in (item.mean, item.least, item.greatest, item.spread)),
        call_time(item.p50),
        call_time(item.p95),
        clean_line(", ".join(item.columns)) or "–",
    ]


def call_time(seconds: float) -> str:
    """Of one reward call, for a table."""
    return (
        f"{seconds * 1e6:.0f} µs"
        if seconds < 1e-3
        else f"{seconds * 1e3:.1f} ms"
        if seconds < 1
        else f"{seconds:.1f} s"
    )


def _remarks(item: FunctionFigures) -> Iterator[Line]:
    """What a person should know, a line each; the first line of every kind of error."""
    name = clean_line(item.name)
    if item.failed:
        others = {outcome: count for outcome, count in item.outcomes.items() if outcome not in ("ok", "none")}
        told = ", ".join(f"{count} {outcome}" for outcome, count in others.items())
        yield [("! ", "red"), f"{name}: {told} of {plural(item.calls, 'call')}"]
    for failure in item.failures:
        yield from ([line] for line in indent("\n".join(map(clean_line, failure.error.split("\n"))), "    "))
    if item.unsteady:
        told = f"{plural(item.unsteady, 'call')} gave something else the second time: results can't be repeated"
        yield [("! ", "yellow"), f"{name}: {told}"]
    if item.groups and item.flat_groups == item.groups:
        yield [("! ", "yellow"), f"{name}: says the same of every completion of a group: it teaches nothing here"]
    if item.p95 > SLOW:
        told = f"a call takes up to {item.p95:.2g} s: training waits for it"
        yield [("! ", "yellow"), f"{name}: {told}"]
