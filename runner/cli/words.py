"""States and reasons in a person's words."""

from __future__ import annotations

from runner.cli.out import Part
from runner.journal.states import State
from runner.journal.words import WORDS
from runner.store.rows import RunRow

EMULATED: Part = ("EMULATED", "black on yellow")

STYLES = {
    State.SUCCEEDED: "bold green",
    State.FAILED: "bold red",
    State.TIMED_OUT: "bold red",
    State.HELD: "bold yellow",
    State.RUNNING: "bold blue",
    State.STARTING: "bold blue",
}


def badge(run: RunRow) -> list[Part]:
    """Says that a run is emulated, wherever a run is named."""
    return [EMULATED, "  "] if run.emulated else []


def standing(run: RunRow) -> list[Part]:
    """The state, and the reason in words."""
    state: Part = (str(run.state), STYLES.get(run.state, ""))
    return [state, f": {WORDS[run.reason]}"] if run.reason else [state]
