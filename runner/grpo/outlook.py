"""What a backend knows of a job before it trains, with the model's configuration and tokenizer at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from runner.spec.errors import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes that training is expected to take."""

    parts: Mapping[str, int]
    """What for → bytes, without the activations."""
    activations: tuple[int, int]
    """Least and most: they depend on kernels."""
    there: int
    """Bytes of the device; of the machine on a CPU."""
    device: str

    @property
    def least(self) -> int:
        return sum(self.parts.values()) + self.activations[0]

    @property
    def most(self) -> int:
        """With a tenth for what allocators lose."""
        return int(1.1 * (sum(self.parts.values()) + self.activations[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Of the training prompts, as the model sees them."""

    median: int
    longest: int
    context: int
    """Tokens of prompt and completion together that the model takes."""
    first: list[tuple[str, bool]]
    """The first prompt's tokens, and whether each is a special one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    findings: list[Finding] = field(default_factory=list[Finding])
    """Errors and warnings. An error of code `environment` is this machine's."""
    memory: Memory | None = None
    tokens: Tokens | None = None
