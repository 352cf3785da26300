"""`runner prune`: room on the disk."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from runner.cli.jobs import home_of
from runner.cli.options import HomeOption, JsonOption
from runner.cli.out import say, say_json
from runner.cli.text import clean_line, plural


def prune(
    older: Annotated[
        str, typer.Option("--older", metavar="TIME", help="Only of runs that ended so long ago: 7d.")
    ] = "",
    all_: Annotated[bool, typer.Option("--all", help="Each run's last checkpoint, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only says what would be removed.")] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Removes checkpoints of ended runs. All but each run's last and best; what the runs recorded stays."""
    from runner.queue.prune import prune as prune_home
    from runner.queue.retry import seconds

    try:
        older_than = seconds(older) if older else 0.0
    except (ValueError, KeyError):
        raise typer.BadParameter(f"{older!r} is no time; write a number and a unit, as 12h or 7d") from None
    where = home_of(home)
    with where.open() as store:
        removed = prune_home(where, store, older_than=older_than, last_too=all_, dry=dry_run)
    if json:
        say_json({"removed": [asdict(item) for item in removed], "dry_run": dry_run})
        return
    for item in removed:
        say(f"{clean_line(item.run)}  step {item.step}  {item.bytes / 1e6:.1f} MB")
    total = sum(item.bytes for item in removed) / 1e6
    say(f"{plural(len(removed), 'checkpoint')}, {total:.1f} MB{' to remove' if dry_run else ' removed'}")
