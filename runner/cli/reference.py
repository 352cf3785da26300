"""The README's CLI reference, from the verbs themselves: `python -m runner.cli.reference` writes it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from runner.cli.app import VERBS, Verbs, build

BEGIN, END = "<!-- cli-reference:begin -->", "<!-- cli-reference:end -->"
SHARED = ("--help", "--home DIR", "--json")
"""Endings of options that nearly every verb has: told once."""


def reference() -> str:
    """Every verb with its arguments and options, as Markdown."""
    group = typer.main.get_command(build())
    assert isinstance(group, Verbs)
    head = "`--json` gives the result as JSON on stdout, `--home DIR` says where jobs/ and the recorded runs are.\n"
    parts = [part for name in VERBS for part in _command(name, group.get_command(None, name))]
    return "\n".join([head, *parts]).rstrip() + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    inner: dict[str, Any] = getattr(command, "commands", {})
    if inner:
        for word, sub in inner.items():
            yield from _command(f"{name} {word}", sub)
        return
    context = typer.Context(command, info_name=f"runner {name}")
    arguments = [piece.replace("{", "").replace("}", "") for piece in command.collect_usage_pieces(context)[1:]]
    yield f"**`{' '.join([f'runner {name}', *arguments])}`** {' '.join((command.help or '').split())}\n"
    told = [item.get_help_record(context) for item in command.get_params(context)]
    rows = [record for record in told if record is not None and not record[0].endswith(SHARED)]
    if rows:
        yield "| | |\n|---|---|"
        yield from (f"| `{_cell(names)}` | {_cell(text)} |" for names, text in rows)
        yield ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def with_reference(readme: str) -> str:
    """The README with the block between the markers made anew. Raises ValueError where a marker is missing."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the README needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{reference()}{END}{after}"


def main() -> int:
    path = Path(__file__).parent.parent.parent / "README.md"
    path.write_text(with_reference(path.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
