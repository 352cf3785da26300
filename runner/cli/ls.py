"""`runner ls`: the runs there are."""

from __future__ import annotations

import time
from dataclasses import replace
from json import loads as parse
from typing import Annotated, Any

import typer

from runner.cli.options import HomeOption, JsonOption
from runner.cli.out import Part, note, say, say_json
from runner.cli.text import ago, clean_line, cut, duration, number, table
from runner.cli.words import STYLES
from runner.journal.states import Reason, State
from runner.journal.words import WORDS
from runner.store.rows import JobRow, RunRow

DETAIL_WIDTH = 48
LABELS_WIDTH = 32
SELF_EXPLAINING = (Reason.FINISHED, Reason.CANCELLED, Reason.SUPERSEDED)


def ls(
    job: Annotated[str | None, typer.Option(help="Only runs of this job.")] = None,
    state: Annotated[State | None, typer.Option(help="Only runs in this state.")] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Lists the runs, latest first."""
    from runner import api

    rows = api.runs(job=job, state=state, home=home)
    wrong = wrong_files(home) if state is None else []
    wrong = [row for row in wrong if job in (None, row.name)]
    rewards = _rewards(rows, home)
    if json:
        runs = [plain(row) | {"reward": rewards[row.id]} for row in rows]
        say_json(
            {"runs": runs, "invalid": [{"job": row.name, "path": row.path, "errors": row.errors} for row in wrong]}
        )
    elif rows:
        _show(rows, rewards)
    elif not wrong:
        note("no runs" + (" like that" if job or state else " yet; `runner emulate JOB` makes one"))
    if not json:
        _show_wrong(wrong)


def wrong_files(home: Any) -> list[JobRow]:
    """Job files that `runner watch` can't run as they are now, as it saw them last."""
    from runner.cli.jobs import home_of
    from runner.store import queries

    with home_of(home).open() as store:
        return [row for row in queries.jobs(store) if row.state != "valid"]


def _show_wrong(rows: list[JobRow]) -> None:
    for row in rows:
        first: dict[str, Any] = row.errors[0] if row.errors else {"message": "the file is missing", "line": 0}
        place = f"{row.path}:{first['line']}" if first["line"] else row.path
        said = f"{first['field']}: {first['message']}" if first.get("field") else first["message"]
        note((row.state, "bold red"), clean_line(f"  {row.name}  {place}  {said}"))


def plain(row: RunRow) -> dict[str, Any]:
    """A run as a JSON object, of its spec only the labels."""
    import msgspec

    told = {name: value for name, value in msgspec.to_builtins(replace(row, spec="")).items() if name != "spec"}
    return told | {"labels": _labels(row)}


def _labels(row: RunRow) -> dict[str, str]:
    """`spec` may be one that another release recorded."""
    return parse(row.spec).get("labels") or {}


def _rewards(rows: list[RunRow], home: Any) -> dict[str, float | None]:
    from runner.cli.jobs import home_of
    from runner.store import queries

    with home_of(home).open() as store:
        return {row.id: queries.last_metrics(store, row.id).get("reward") for row in rows}


def _show(rows: list[RunRow], rewards: dict[str, float | None]) -> None:
    head = ("RUN", "STATE", "STEP", "REWARD", "STARTED", "TOOK", "", *_label_cells(rows, "LABELS"), "WHY")
    cells = [(*_cells(row, rewards[row.id]), *_label_cells(rows, _in_words(_labels(row))), _why(row)) for row in rows]
    lines = table([head, *cells], right=(2, 3, 5))
    say((lines[0], "bold"))
    for row, line in zip(rows, lines[1:], strict=True):
        name, rest = line[: len(clean_line(row.id))], line[len(clean_line(row.id)) :]
        state = str(row.state)
        before, _, after = rest.partition(state)
        parts: list[Part] = [(name, "bold"), before, (state, STYLES.get(row.state, "")), after]
        say(*parts)


def _cells(row: RunRow, reward: float | None) -> tuple[str, ...]:
    now = time.time()
    began = row.started_at or row.created_at
    took = duration((row.ended_at or now) - row.started_at) if row.started_at and row.state is not State.HELD else "–"
    return (
        clean_line(row.id),
        str(row.state),
        f"{row.last_step}/{row.total_steps}",
        number(reward),
        ago(now - began),
        took,
        "EMULATED" if row.emulated else "",
    )


def _label_cells(rows: list[RunRow], text: str) -> list[str]:
    """The column of labels, where any run has some."""
    return [text] if any(_labels(row) for row in rows) else []


def _in_words(labels: dict[str, str]) -> str:
    return cut(clean_line(" ".join(f"{name}={value}" for name, value in labels.items())), LABELS_WIDTH)


def _why(row: RunRow) -> str:
    if row.reason is None or row.reason in SELF_EXPLAINING:
        return ""
    return cut(clean_line(row.detail or WORDS[row.reason]), DETAIL_WIDTH)
