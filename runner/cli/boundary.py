"""The one place where an exception becomes a message and an exit code."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import traceback
from collections.abc import Callable

import typer

from runner.cli.out import note
from runner.cli.text import clean, clean_line

FAILED, INVALID, UNFIT, INTERRUPTED = 1, 2, 5, 130
READER_GONE = 141
"""As from SIGPIPE: what stdout was piped into has ended."""

show_traceback = False
"""`--traceback` was given."""


def guarded(function: Callable[..., None]) -> Callable[..., None]:
    """The function with every exception told to the person and turned into the exit code."""

    @functools.wraps(function)
    def run(*args: object, **kwargs: object) -> None:
        try:
            function(*args, **kwargs)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except BrokenPipeError:
            # Python flushes stdout once more at its end; the reader is gone, so that goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(READER_GONE) from None
        except KeyboardInterrupt:
            note("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            raise typer.Exit(_tell(error)) from None

    return run


def _tell(error: Exception) -> int:
    """Says what went wrong and gives the exit code."""
    from runner.spec.errors import JobError, render
    from runner.store.errors import StoreError

    if isinstance(error, JobError):
        note(render(error.findings))
        return INVALID
    unfit = type(error).__name__ == "EnvironmentUnfit"  # the api's, which most verbs do not import
    if unfit or isinstance(error, StoreError):
        note(("error: ", "bold red"), clean(str(error)))
        return UNFIT if unfit else INVALID
    _tell_defect(error)
    return FAILED


def _tell_defect(error: Exception) -> None:
    text = "".join(traceback.format_exception(error))
    if show_traceback:
        note(clean(text))
        return
    with tempfile.NamedTemporaryFile("w", prefix="runner-traceback-", suffix=".txt", delete=False) as file:
        file.write(text)
    note(("defect: ", "bold red"), clean_line(f"{type(error).__name__}: {error}"))
    note(f"This is a fault of the runner, not of your job. Traceback: {file.name}")
