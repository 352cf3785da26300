"""`runner reward rescore`: what an edit of the rewards would have changed, on everything a run has recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import typer

from runner.cli.boundary import FAILED
from runner.cli.options import HomeOption, JsonOption, RunArgument
from runner.cli.out import Line, note, say, say_json
from runner.cli.text import clean_line, indent, number, plural, table
from runner.rescoring import Rescored
from runner.rewards.figures import Change


def rescore(
    run: RunArgument,
    job: Annotated[
        str | None,
        typer.Argument(metavar="JOB|FILE.py", help="Whose rewards. Default: the run's job, as its files are now."),
    ] = None,
    step: Annotated[str, typer.Option(metavar="N|N-M|all", help="Only these steps.")] = "all",
    split: Annotated[Literal["train", "eval"], typer.Option(help="Training or evaluation.")] = "train",
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Scores recorded completions again. With the reward files as they are now; nothing is recorded."""
    from runner.rescoring import rescore as rescore_run

    result = rescore_run(run, steps=_steps(step), split=split, job=job, home=home)
    if json:
        say_json(plain(result))
    else:
        for line in lines(result):
            say(*line)
    if result.is_failed:
        failed = ", ".join(f"{name} {count}" for name, count in result.failed.items() if count)
        note(("failed calls: ", "bold red"), clean_line(failed))
        raise typer.Exit(FAILED)


def _steps(text: str) -> tuple[int, int] | None:
    """First and last; None for all of them."""
    if text == "all":
        return None
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise typer.BadParameter(f"--step {text!r}: write a number, two as 10-20, or all")
    return int(first), int(last) if dash else int(first)


def plain(result: Rescored) -> dict[str, Any]:
    from dataclasses import asdict

    return {name: value for name, value in asdict(result).items() if name != "totals"}


def lines(result: Rescored) -> Iterator[Line]:
    was = ", ".join(version[:12] for version in result.versions)
    same = list(result.versions) == [result.version]
    now = "the same version" if same else f"now {result.version[:12]}"
    steps = f"steps {result.steps[0]}–{result.steps[-1]}" if len(result.steps) > 1 else f"step {result.steps[0]}"
    yield [f"{clean_line(result.run)}: {plural(result.completions, 'completion')} of {steps}; was {was}, {now}"]
    yield [""]
    yield from ([line] for line in table([HEAD, *map(_cells, result.changes)], right=range(1, len(HEAD))))
    yield from ([f"{clean_line(name)}: new, the run has no scores of it"] for name in result.added)
    yield from ([f"{clean_line(name)}: in the run, not in the files"] for name in result.removed)
    for failure in result.failures:
        yield [("! ", "red"), failure.outcome]
        yield from ([line] for line in indent("\n".join(map(clean_line, failure.error.split("\n"))), "    "))


HEAD = ["", "changed", "mean", "→", "rank corr.", "in groups", "new winners", "gain signal", "lose it", "groups"]


def _cells(item: Change) -> list[str]:
    return [
        clean_line(item.name),
        f"{item.changed}/{item.values}",
        number(item.mean_before),
        number(item.mean_after),
        number(item.rank_correlation),
        number(item.group_rank_correlation),
        str(item.new_winners),
        str(item.gained),
        str(item.lost),
        str(item.groups),
    ]
