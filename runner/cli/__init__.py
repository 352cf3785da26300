"""The command line: one thin module for each verb, imported when it is called."""

from __future__ import annotations

import gc


def main() -> None:
    """Entry point of `runner`."""
    from runner.cli.app import build

    try:
        build()(prog_name="runner")
    finally:
        # Else the interpreter's end looks through all that was imported: a tenth of a second. So nothing is closed by
        # the collector there: who opens a database or a file closes it.
        gc.freeze()
