"""`runner logs`: what happened in a run, what its rewards said, what its trainer printed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from runner.api import RunHandle
from runner.cli.options import HomeOption, RunArgument
from runner.cli.out import Part, note, say, say_json
from runner.cli.text import clean, clean_line, indent, number
from runner.rewards.versions import in_words
from runner.store import queries
from runner.store.rows import EventRow, RewardLogRow
from runner.store.store import Store

PAGE = 500


def logs(
    run: RunArgument,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Goes on until the run has ended.")] = False,
    rewards: Annotated[
        bool, typer.Option("--rewards", help="What the reward functions printed, and their errors.")
    ] = False,
    trainer: Annotated[
        bool, typer.Option("--trainer", help="What the trainer process of the last attempt printed.")
    ] = False,
    home: HomeOption = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Shows what happened in a run, step by step."""
    from runner import api

    handle = api.open_run(run, home=home)
    state = handle.row.state  # takes in what its processes have recorded
    if trainer:
        _trainer(handle, json)
    elif rewards:
        _rewards(handle, json)
    else:
        _events(handle, json, follow and not state.is_final)


def _events(handle: RunHandle, json: bool, follow: bool) -> None:
    for event in _stored(handle) if not follow else handle.events():
        if event is None or (event.void and not json):
            continue
        if json:
            say_json(_plain(event), indent=None)
        elif line := event_line(event):
            say(*line)


def _stored(handle: RunHandle) -> Iterator[EventRow]:
    after = 0
    with handle.reading() as store:
        while page := queries.events(store, handle.id, after=after, limit=PAGE):
            yield from page
            after = page[-1].id


def _plain(row: EventRow | RewardLogRow) -> dict[str, Any]:
    import msgspec

    built: dict[str, Any] = msgspec.to_builtins(row)
    return built


def event_line(event: EventRow) -> list[Part]:
    """An event as a line; empty for those that only carry rows."""
    if event.data is None:
        return []
    words = _words(event, event.data)
    at = time.strftime("%H:%M:%S", time.localtime(event.at))
    return [(at, "dim"), "  ", clean_line(words)] if words else []


def _words(event: EventRow, data: dict[str, Any]) -> str:
    match event.type:
        case "transition":
            why = ": ".join(str(data[name]) for name in ("reason", "detail") if data[name])
            return f"{data['to']}{f' ({why})' if why else ''}"
        case "attempt_started":
            start = "the model" if data["resumed_step"] is None else f"the checkpoint of step {data['resumed_step']}"
            return f"attempt {data['attempt']} on {data['backend']}, from {start}"
        case "metrics_reported":
            return _metrics(data["step"], data["metrics"])
        case "version_changed":
            told = in_words(data).partition("\n")[0]
            return f"{told} ({data['version'][:12]})" if told else ""
        case "differences_found":
            return "differs: " + "; ".join(f"{item['field']} {item['detail']}" for item in data["items"])
        case "checkpoint_saved":
            return f"step {data['step']}: checkpoint {data['path']}"
        case "checkpoint_removed":
            return f"step {data['step']}: checkpoint removed"
        case "alert":
            return f"alert at step {data['step']}: {data['message']} [{data['code']}]"
        case "attempt_ended":
            return f"attempt ended: {data['reason']}, {data['detail'] or 'step ' + str(data['step'])}"
        case _:
            return event.type


def _metrics(step: int, metrics: dict[str, float]) -> str:
    prefix = "eval/" if any(name.startswith("eval/") for name in metrics) else ""
    plain = {name.removeprefix("eval/"): value for name, value in metrics.items()}
    named = {"reward": plain.get("reward"), "loss": plain.get("loss"), "kl": plain.get("kl")}
    named |= {
        name.split("/", 1)[1].removesuffix("/mean"): value
        for name, value in plain.items()
        if name.startswith("rewards/") and name.endswith("/mean")
    }
    figures = "  ".join(f"{name} {number(value)}" for name, value in named.items() if value is not None)
    return f"{prefix.replace('/', ' ')}step {step}: {figures}"


def _rewards(handle: RunHandle, json: bool) -> None:
    with handle.reading() as store:
        found = False
        for row in reward_rows(store, handle.id):
            found = True
            if json:
                say_json(_plain(row), indent=None)
            else:
                _say_reward(row)
    if not found:
        note("no reward function printed anything or failed")


def reward_rows(store: Store, run_id: str) -> Iterator[RewardLogRow]:
    """Every reward call that printed or failed, in order."""
    after = (0, "")
    while page := queries.reward_logs(store, run_id, after=after, limit=PAGE):
        yield from page
        after = (page[-1].rollout_id, page[-1].name)


def _say_reward(row: RewardLogRow) -> None:
    bad = row.outcome not in ("ok", "none")
    head = f"  {row.split} step {row.step}, completion {row.rollout_id}, version {row.version[:12]}"
    say((clean_line(row.name), "bold"), head, "  ", (row.outcome, "bold red" if bad else ""))
    for text, mark in ((row.error, "  ! "), (row.output, "  │ ")):
        if text:
            for line in indent(clean(text.rstrip("\n")), mark):
                say(line)


def _trainer(handle: RunHandle, json: bool) -> None:
    """The whole log, as it stands."""
    attempts = handle.home.run(handle.id).attempts()
    path = handle.home.run(handle.id).attempt(attempts[-1]) / "trainer.log" if attempts else None
    if path is None or not path.exists():
        note("no attempt of this run has a trainer log")
        return
    with path.open(errors="replace") as file:
        for line in file:
            if json:
                say_json({"line": line.rstrip("\n")}, indent=None)
            else:
                say(clean(line.rstrip("\n")))
