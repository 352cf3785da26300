"""`runner reward …`: the verbs about reward functions, as one click command. Each is imported when it is listed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer

from runner.cli.boundary import guarded

VERBS = {"test": ("reward_test", "test"), "rescore": ("reward_rescore", "rescore")}
"""verb → module of this package, and function in it."""


def reward() -> Any:
    """Reward functions: try them, score again."""
    app = typer.Typer(
        name="reward", help=TEXT, no_args_is_help=True, rich_markup_mode=None, add_completion=False
    )  # fmt: skip
    app.callback()(_nothing)
    for verb, (module, function) in VERBS.items():
        app.command(verb)(guarded(getattr(import_module(f"runner.cli.{module}"), function)))
    return typer.main.get_command(app)


TEXT = "Tries reward functions, and scores again."


def _nothing() -> None:
    """Tries reward functions, and scores again."""
