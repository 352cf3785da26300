"""`runner diff`: what differs between two runs, two job files, or a run and a job file."""

from __future__ import annotations

import difflib
import json as jsonlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from runner.cli.jobs import home_of, is_job
from runner.cli.options import HomeOption, JsonOption
from runner.cli.out import Line, say, say_json
from runner.cli.report import ENDS, change
from runner.cli.text import clean, clean_line, number, table
from runner.spec.model import JobSpec

DIFFERENT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A run or a job file."""

    title: str
    job: JobSpec
    sources: Mapping[str, str]
    """Reward files, by relative path."""
    metrics: Mapping[str, list[tuple[int, float | None]]]
    """Empty for a job file."""


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A run, or the path of a job file.")],
    b: Annotated[str, typer.Argument(metavar="B", help="A run, or the path of a job file.")],
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit code 1 when job or rewards differ.")] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Compares two runs or job files. Settings, reward code, and how their metrics ended."""
    from runner.spec.resolve import differences

    old, new = _side(a, home), _side(b, home)
    fields = differences(old.job, new.job)
    code = "".join(_source_lines(old, new))
    if json:
        say_json(
            {
                "a": old.title,
                "b": new.title,
                "fields": {path: {"a": before, "b": after} for path, (before, after) in fields.items()},
                "rewards": code,
                "metrics": {name: {"a": x, "b": y} for name, x, y in _metrics(old, new)},
            }
        )
    else:
        for line in _lines(old, new, fields, code):
            say(*line)
    if exit_code and (fields or code):
        raise typer.Exit(DIFFERENT)


def _side(name: str, home: Path | None) -> Side:
    """A job file or a folder that has one is a job; everything else is a run."""
    return _job(name) if is_job(Path(name)) else _run(name, home)


def _job(name: str) -> Side:
    from runner.queue.jobs import load_job
    from runner.rewards import bundle

    loaded = load_job(name)
    sources = bundle.build(loaded.job.rewards, loaded.folder).sources
    return Side(title=name, job=loaded.job, sources=_texts(sources), metrics={})


def _run(name: str, home: Path | None) -> Side:
    from runner import api
    from runner.queue.publish import live_version
    from runner.rewards.versions import Shelf
    from runner.store import queries

    handle = api.open_run(name, home=home_of(home).path)
    row = handle.row
    with handle.reading() as store:
        series = dict(queries.metrics(store, row.id))
        live = live_version(queries.reward_versions(store, row.id))
    shelf = Shelf(handle.home.run(row.id).rewards)
    sources = shelf.bundle(live or shelf.wanted).sources
    return Side(title=row.id, job=JobSpec.model_validate_json(row.spec), sources=_texts(sources), metrics=series)


def _texts(sources: Mapping[str, bytes]) -> dict[str, str]:
    return {path: source.decode(errors="replace") for path, source in sources.items()}


def _source_lines(old: Side, new: Side) -> Iterator[str]:
    for path in sorted({*old.sources, *new.sources}):
        before, after = (side.sources.get(path, "").splitlines(keepends=True) for side in (old, new))
        yield from difflib.unified_diff(before, after, f"{old.title}/{path}", f"{new.title}/{path}")


def _metrics(old: Side, new: Side) -> Iterator[tuple[str, float | None, float | None]]:
    """Reward and every function: the mean of the last steps, and the last evaluation."""
    names = [name for name in {**old.metrics, **new.metrics} if name.removeprefix("eval/") == "reward"]
    names += [name for name in {**old.metrics, **new.metrics} if "rewards/" in name and name.endswith("/mean")]
    for name in names:
        ends = [change(side.metrics.get(name, ()), 0.0 if name.startswith("eval/") else ENDS) for side in (old, new)]
        first, second = (end.last if end else None for end in ends)
        yield name, first, second


def _lines(old: Side, new: Side, fields: Mapping[str, tuple[Any, Any]], code: str) -> Iterator[Line]:
    yield [(f"{old.title} → {new.title}", "bold")]
    if not fields and not code:
        yield ["the same job and the same rewards"]
    for line in table((path, _value(before), "→", _value(after)) for path, (before, after) in fields.items()):
        yield [f"  {line}"]
    for line in code.splitlines():
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        yield ["  ", (clean(line), style)]
    rows = [(clean_line(name), number(x), number(y)) for name, x, y in _metrics(old, new)]
    if rows:
        yield [("at the end", "bold")]
        yield from ([f"  {line}"] for line in table([("", old.title, new.title), *rows], right=(1, 2)))


def _value(value: Any) -> str:
    return "(unset)" if value is None else clean_line(value if isinstance(value, str) else jsonlib.dumps(value))
