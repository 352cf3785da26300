"""The Typer app. A verb's module is imported when the verb is called, so that each verb costs only what it needs."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from runner.cli import boundary

VERBS = {
    "init": ("init", "Writes a job to start from."),
    "validate": ("validate", "Checks jobs, their data and rewards."),
    "plan": ("plan", "Shows what a run would do."),
    "run": ("train", "Trains a job with TRL on the GPU."),
    "emulate": ("emulate", "Trains jobs in miniature on the CPU, and checks them."),
    "watch": ("watch", "Runs what lies in jobs/, and whatever is put there."),
    "submit": ("queue", "Puts a job in the queue."),
    "ls": ("ls", "Lists the runs, latest first."),
    "show": ("show", "Shows everything of one run."),
    "logs": ("logs", "Shows what happened in a run, step by step."),
    "completions": ("completions", "Shows what the model wrote, and every score."),
    "cancel": ("queue", "Ends a run for good."),
    "resume": ("queue", "Goes on with a held run."),
    "rerun": ("queue", "Makes a new run of a run's job."),
    "diff": ("diff", "Compares two runs or job files."),
    "prompt": ("prompt", "Asks a run's model, beside the one it began with."),
    "export": ("export", "Writes model, completions, metrics and a web page."),
    "reward": ("reward", "Tries, compares and manages reward functions."),
    "ui": ("ui", "Shows jobs, runs, completions and rewards in a browser."),
    "schema": ("schema", "Prints a JSON Schema."),
    "explain": ("schema", "Explains a field of job.yaml."),
    "doctor": ("doctor", "Says what this machine offers."),
    "prune": ("prune", "Removes checkpoints of ended runs."),
    "db": ("db", "Looks after the database."),
}
"""verb → module of this package that has a function of that name, and what the list of verbs says of it (the first
sentence of the function's help, so that the list imports nothing)."""

GROUPS = ("reward", "db")
"""Verbs that have verbs of their own."""

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Verbs(TyperGroup):
    """Finds verbs by the table."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        found = getattr(import_module(f"runner.cli.{VERBS[cmd_name][0]}"), cmd_name)
        return found() if cmd_name in GROUPS else command(cmd_name, found)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


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
    """Reinforcement fine-tuning with GRPO: a job.yaml and a rewards.py in, an adapter and every completion out."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    boundary.show_traceback = traceback
    if version:
        from importlib.metadata import version as version_of

        typer.echo(version_of("grpo-runner"))
        raise typer.Exit
