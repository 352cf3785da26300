"""`runner reward history`, `rollback` and `accept`: the reward versions of a run."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from runner.cli.options import HomeOption, JsonOption, RunArgument
from runner.cli.out import Line, note, say, say_json
from runner.cli.text import clean, clean_line, number, table
from runner.journal.folder import read_json
from runner.rewards.bundle import Bundle
from runner.rewards.versions import Shelf
from runner.store import queries
from runner.store.rows import EventRow, RewardVersionRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A reward version with what was found when it was vetted."""

    row: RewardVersionRow
    live_from: Sequence[int]
    """Steps at which it went live."""
    changes: Sequence[Mapping[str, Any]]
    """Against the version that was live then, on the last batch's completions: `runner.journal.events.ScoreChange`."""
    reference: Mapping[str, float]
    """Mean of each function over completions that are the same for all versions of the run."""
    diff: str
    """From the version before it; empty for the first one and for files that made no version."""


def history(
    run: RunArgument,
    diff: Annotated[bool, typer.Option("--diff", help="What each version changed.")] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Lists a run's reward versions. When each was live, its scores of the same completions, why it was refused."""
    from runner import api

    handle = api.open_run(run, home=home)
    with handle.reading() as store:
        rows = queries.reward_versions(store, handle.id)
        told = queries.events(store, handle.id, types=["version_changed"], limit=1_000_000)
    versions = list(_versions(rows, told, Shelf(handle.home.run(handle.id).rewards)))
    if json:
        say_json([_plain(version) for version in versions])
        return
    for line in _lines(versions):
        say(*line)
    for version in versions if diff else ():
        _say_diff(version)


def rollback(
    run: RunArgument,
    to: Annotated[int | None, typer.Option("--to", metavar="N", help="Default: the one that was live before.")] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Puts an earlier reward version live again. At the next step; the job's files stay as they are."""
    from runner import api
    from runner.queue import publish

    handle = api.open_run(run, home=home)
    with handle.home.open() as store:
        row = publish.rollback(handle.home, store, handle.id, to)
    _tell(row, json, "goes live at the next step; the next edit of the job's files replaces it")


def accept(run: RunArgument, home: HomeOption = None, json: JsonOption = False) -> None:
    """Puts the reward version live that waits for a word. Versions wait in a job with `reload: ask`."""
    from runner import api
    from runner.queue import publish

    handle = api.open_run(run, home=home)
    with handle.home.open() as store:
        row = publish.accept(handle.home, store, handle.id)
    _tell(row, json, "goes live at the next step")


def _tell(row: RewardVersionRow, json: bool, what: str) -> None:
    if json:
        say_json({"run": row.run_id, "version": row.version, "sha256": row.sha256})
    else:
        say(f"{row.run_id}: reward version {row.version}")
        note(what)


# ------------------------------------------------------------------------------------------------------- history


def _versions(rows: Sequence[RewardVersionRow], events: Sequence[EventRow], shelf: Shelf) -> Iterator[Version]:
    before: Bundle | None = None
    first = (read_json(shelf.reference) or {}).get("means", {})
    for row in rows:
        own = [event.data for event in events if event.data and event.data["version"] == row.sha256 and not event.void]
        staged = [data for data in own if data["state"] == "staged"]
        bundle = shelf.bundle(row.sha256) if shelf.path(row.sha256).is_dir() else None
        yield Version(
            row=row,
            live_from=sorted({data["first_step"] for data in own if data["state"] == "active"}),
            changes=staged[-1].get("changes", []) if staged else [],
            reference=staged[-1].get("reference", {}) if staged else first if row.version == 1 else {},
            diff="".join(_diff(before, bundle)) if before and bundle else "",
        )
        before = bundle or before


def _diff(old: Bundle, new: Bundle) -> Iterator[str]:
    """Of the functions' options and of the sources."""
    yield from _unified(_options(old), _options(new), "rewards")
    for path in sorted({*old.sources, *new.sources}):
        before, after = (bundle.sources.get(path, b"").decode(errors="replace") for bundle in (old, new))
        yield from _unified(before, after, path)


def _unified(old: str, new: str, name: str) -> Iterator[str]:
    for line in difflib.unified_diff(old.splitlines(), new.splitlines(), name, name, lineterm=""):
        yield f"{line}\n"


def _options(bundle: Bundle) -> str:
    """One line for each function."""
    lines: list[str] = []
    for function in bundle.functions:
        options = ", ".join(f"{name}: {value}" for name, value in asdict(function).items() if name != "name")
        lines.append(f"{function.name}: {{{options}}}")
    return "\n".join(lines)


def _lines(versions: Sequence[Version]) -> Iterator[Line]:
    names = list(dict.fromkeys(name for version in versions for name in version.reference))
    head = ["", "sha256", "state", "live from step", *(clean_line(name) for name in names)]
    cells = [head, *(_cells(version, names) for version in versions)] if versions else []
    lines = table(cells, right=(0, *range(4, 4 + len(names))))
    for i, line in enumerate(lines):
        yield [(line, "bold" if i == 0 else "")]
        if i and (error := versions[i - 1].row.error):
            yield ["    ", (clean_line(error.partition("\n")[0]), "red")]
    if names:
        yield [("scores: means over the same completions for every version", "dim")]


def _cells(version: Version, names: Sequence[str]) -> list[str]:
    row = version.row
    scores = [number(version.reference.get(name)) for name in names]
    return [str(row.version), row.sha256[:12], row.state, ", ".join(map(str, version.live_from)), *scores]


def _say_diff(version: Version) -> None:
    if not version.diff:
        return
    say()
    say((f"version {version.row.version}", "bold"))
    for line in version.diff.splitlines():
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        say("  ", (clean(line), style))


def _plain(version: Version) -> dict[str, Any]:
    row = version.row
    return {
        "version": row.version,
        "sha256": row.sha256,
        "state": row.state,
        "error": row.error,
        "live_from": list(version.live_from),
        "reference": dict(version.reference),
        "changes": list(version.changes),
        "diff": version.diff,
    }
