"""The nouns of a run. Group-major, in the order given: completion i of group g is row g·G + i everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from runner.data.examples import Example, Message
from runner.journal.events import Split
from runner.journal.states import Reason
from runner.rewards.contract import Outcome, Score

Finish = Literal["eos", "length"]

__all__ = [
    "Completion",
    "Example",
    "Finish",
    "Group",
    "Message",
    "Next",
    "Outcome",
    "Reason",
    "Score",
    "Scored",
    "Split",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    text: str
    n_tokens: int
    finish: Finish
    """`eos`: the model ended it. `length`: it was cut at `max_completion_length`."""
    ids: tuple[int, ...] = ()
    """The token ids, the end token included, for rewards of TRL's style; empty where the text has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The completions of one prompt, scored against each other. Never split."""

    example: Example
    prompt: str
    """The exact text the model saw: the example's prompt after the chat template."""
    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A scored batch: n completions, F optimised reward functions."""

    version: str
    """The one reward version that scored all of it."""
    names: tuple[str, ...]
    """Optimised functions only (weight ≠ 0). [F]"""
    weights: tuple[float, ...]
    """[F]"""
    values: list[list[float | None]]
    """[n][F]; a row that is all None ⇔ the completion left its group."""
    rewards: list[float | None]
    """Weighted sums. [n]"""
    advantages: list[float]
    """[n]; 0.0 where the reward is None."""
    scores: list[list[Score]]
    """Every function, metric-only ones too, in the job's order. [n][all]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """What the backend is to do after a reported step, in this order."""

    evaluate: bool
    save: bool
    stop: Reason | None
