"""`runner reward …`: the verbs about reward functions, as one click command. Each is imported when it is listed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer

from runner.cli.boundary import guarded

VERBS = {
    "test": "reward_test",
    "rescore": "reward_rescore",
    "history": "reward_versions",
    "rollback": "reward_versions",
    "accept": "reward_versions",
}
"""verb → module of this package that has a function of that name."""
TEXT = "Tries, compares and manages reward functions."


def reward() -> Any:
    """The verbs of `reward`, as one click command."""
    app = typer.Typer(name="reward", help=TEXT, no_args_is_help=True, rich_markup_mode=None, add_completion=False)
    app.callback()(_nothing)
    for verb, module in VERBS.items():
        app.command(verb)(guarded(getattr(import_module(f"runner.cli.{module}"), verb)))
    return typer.main.get_command(app)


def _nothing() -> None:
    """Tries, compares and manages reward functions."""
