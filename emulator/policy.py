"""What the emulator trains: the protocol of its policies. `lm` is a tiny language model, `replay` recorded texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runner.grpo.types import Completion, Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How completions are drawn. `temperature` 0 is greedy."""

    max_completion_length: int
    """Tokens, the end token included."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: off."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0


class Sampled(Protocol):
    """What a policy drew: the completions, and whatever it needs to be updated on them."""

    @property
    def completions(self) -> list[list[Completion]]:
        """[group][generation], in the order of the examples."""
        ...

    def save(self, folder: Path) -> None:
        """Into a checkpoint in the midst of the batch, for `Policy.load_drawn`. The texts need not come back."""
        ...


class Policy(Protocol):
    """Draws completions and learns from their advantages. Holds no random state: every draw has its own seed."""

    def prompt(self, example: Example) -> str:
        """The exact text the policy sees for this example."""
        ...

    def sample(self, examples: Sequence[Example], sampling: Sampling, seeds: Sequence[Sequence[int]]) -> Sampled:
        """One completion per seed: `seeds[g][i]` (64 bits) decides completion i of example g, and nothing else does."""
        ...

    def update(
        self, sampled: Sampled, advantages: Sequence[float], step: int, rows: Sequence[int] | None = None
    ) -> Mapping[str, float]:
        """One optimizer step (1-based `step`) on the completions `rows` of what was sampled (None: all), in the
        order of their forward passes.

        `advantages` are the whole batch's. Gives metrics under TRL's names (loss, grad_norm, …).
        """
        ...

    def save(self, folder: Path) -> None:
        """Weights as a model folder, and the optimizer's state: all that `load` needs to go on bitwise."""
        ...

    def load(self, folder: Path) -> None: ...

    def load_drawn(self, folder: Path) -> Sampled:
        """What `Sampled.save` wrote."""
        ...
