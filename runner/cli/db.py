"""`runner db rebuild`: the database anew, from the run folders."""

from __future__ import annotations

from typing import Any

import typer

from runner.cli.boundary import FAILED, guarded
from runner.cli.jobs import home_of
from runner.cli.options import HomeOption, JsonOption
from runner.cli.out import note, say, say_json
from runner.cli.text import clean_line, plural


def rebuild(home: HomeOption = None, json: JsonOption = False) -> None:
    """Makes the database anew. From the run folders; no other runner process may be at work in this home."""
    from runner.store.rebuild import rebuild as rebuild_store

    made = rebuild_store(home_of(home).database)
    for problem in made.problems:
        note(("not restored: ", "red"), clean_line(problem))
    if json:
        old = str(made.old) if made.old else None
        say_json({"runs": made.runs, "events": made.events, "problems": made.problems, "old": old})
    else:
        kept = f"; the old database is {clean_line(str(made.old))}" if made.old else ""
        say(f"{plural(made.runs, 'run')} and {plural(made.events, 'event')} restored{kept}")
    if made.problems:
        raise typer.Exit(FAILED)


def db() -> Any:
    """The verbs of `db`, as one click command."""
    app = typer.Typer(
        name="db", help="Looks after the database.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
    )
    app.callback()(_nothing)
    app.command("rebuild")(guarded(rebuild))
    return typer.main.get_command(app)


def _nothing() -> None:
    """Looks after the database."""
