"""The Typer app. A verb's module is imported when the verb is called, so that each verb costs only what it needs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from runner.cli import boundary

VERBS = {
    "init": "init",
    "validate": "validate",
    "plan": "plan",
    "run": "train",
    "emulate": "train",
    "submit": "queue",
    "ls": "ls",
    "show": "show",
    "logs": "logs",
    "completions": "completions",
    "cancel": "queue",
    "resume": "queue",
    "rerun": "queue",
    "diff": "diff",
    "export": "export",
    "schema": "schema",
    "explain": "schema",
    "doctor": "doctor",
    "db": "db",
}
"""verb → module of this package with a function, or (for a verb with verbs of its own) an app, of that name."""

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Verbs(TyperGroup):
    """Finds verbs by the table."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        found = getattr(import_module(f"runner.cli.{VERBS[cmd_name]}"), cmd_name)
        return found() if cmd_name == "db" else command(cmd_name, found)


def command(name: str, function: Callable[..., None]) -> Any:
    """The click command of one function."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(name, context_settings=SETTINGS)(boundary.guarded(function))
    built = typer.main.get_command(app)
    built.name = name
    return built


def build() -> typer.Typer:
    """The whole app."""
    app = typer.Typer(
        cls=Verbs,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings=SETTINGS,
    )
    app.callback()(_runner)
    return app


def _runner(
    version: Annotated[bool, typer.Option("--version", help="Prints the version.", is_eager=True)] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Shows the traceback of a defect.")] = False,
) -> None:
    """Reinforcement fine-tuning with GRPO: a job.yaml and a rewards.py in, a trained adapter and every completion out."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    boundary.show_traceback = traceback
    if version:
        from importlib.metadata import version as version_of

        typer.echo(version_of("grpo-runner"))
        raise typer.Exit
