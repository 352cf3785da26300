"""The command line: one thin module for each verb, imported when it is called."""

from __future__ import annotations


def main() -> None:
    """Entry point of `runner`."""
    from runner.cli.app import build

    build()(prog_name="runner")
