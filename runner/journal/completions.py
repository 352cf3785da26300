"""What a run's journals say was written to each example: an earlier run, to be replayed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.journal.events import BatchScored, ExamplesSeen
from runner.journal.folder import RunFolder
from runner.journal.log import read

RUN = "run:"
"""Before a run's id, where a file of completions may stand."""


def recorded(run: Path) -> Iterator[dict[str, Any]]:
    """The columns of every example of the run in this folder, with `completions`: the distinct texts it got, in order.

    A column that is itself named `completions` is left out.
    """
    folder = RunFolder(run)
    columns: dict[int, dict[str, Any]] = {}
    texts: dict[int, dict[str, None]] = {}
    for attempt in folder.attempts():
        for event, _ in read(folder.journal(attempt)):
            if isinstance(event, ExamplesSeen):
                columns |= {example.id: example.columns for example in event.examples}
            elif isinstance(event, BatchScored):
                for group in event.groups:
                    texts.setdefault(group.example_id, {}).update((row.completion, None) for row in group.rollouts)
    for id, found in texts.items():
        yield {**columns[id], "completions": list(found)}
