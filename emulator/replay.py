"""`replay`: a softmax policy over recorded completions of each prompt, learning by real GRPO gradients. No torch.

Realistic text for the rewards in well under a second; what it can't show is a model that writes something new.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulator.policy import Sampled, Sampling
from runner.grpo.types import Completion, Example
from runner.spec.errors import Finding, JobError

DEFAULT_LEARNING_RATE = 1.0
BYTES_PER_TOKEN = 4
"""Recorded text has no tokens; its length is reported as bytes / 4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Completions with what drew them."""

    completions: list[list[Completion]]
    examples: Sequence[Example]
    picks: list[list[int]]
    """Index of each completion among its example's candidates. [group][generation]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySettings:
    learning_rate: float
    beta: float
    temperature: float


class ReplayPolicy:
    """p(c | example) = softmax(θ[example] / temperature)[c], θ = 0 at the start (also the reference)."""

    def __init__(self, file: Path, settings: ReplaySettings) -> None:
        self._candidates = Candidates(file)
        self._settings = settings
        self._theta: dict[int, list[float]] = {}

    def prompt(self, example: Example) -> str:
        if isinstance(example.prompt, str):
            return example.prompt
        return "\n".join(message["content"] for message in example.prompt)

    def sample(self, examples: Sequence[Example], sampling: Sampling, seeds: Sequence[Sequence[int]]) -> Drawn:
        picks = [
            [self._pick(example, sampling.temperature, seed) for seed in group]
            for example, group in zip(examples, seeds, strict=True)
        ]
        completions = [
            [_completion(self._candidates.of(example, self.prompt(example))[pick]) for pick in group]
            for example, group in zip(examples, picks, strict=True)
        ]
        return Drawn(completions=completions, examples=examples, picks=picks)

    def update(self, sampled: Sampled, advantages: Sequence[float], step: int) -> Mapping[str, float]:
        """One gradient step on L = mean over completions of −A·log p + β·k3, k3 = e^(q−l) − (q−l) − 1 (Schulman),
        l = log p and q = log p_ref of the completion drawn; dL/dl = −A + β·(1 − e^(q−l))."""
        assert isinstance(sampled, Drawn), "a policy is updated on what it drew itself"
        n = len(advantages)
        position, loss, kl, entropy = 0, 0.0, 0.0, 0.0
        gradient: dict[int, list[float]] = {}
        for example, group in zip(sampled.examples, sampled.picks, strict=True):
            p = self._probabilities(example, self._settings.temperature)
            slope = gradient.setdefault(example.id, [0.0] * len(p))
            entropy -= sum(q * math.log(q) for q in p if q > 0) * len(group) / n
            for pick in group:
                log_p, log_ref = math.log(p[pick]), -math.log(len(p))
                divergence = math.exp(log_ref - log_p) - (log_ref - log_p) - 1
                push = -advantages[position] + self._settings.beta * (1 - math.exp(log_ref - log_p))
                loss += (-advantages[position] + self._settings.beta * divergence) / n
                kl += divergence / n
                for j, q in enumerate(p):
                    slope[j] += push * ((j == pick) - q) / len(group)
                position += 1
        self._descend(gradient)
        norm = math.sqrt(math.fsum(x * x for slope in gradient.values() for x in slope))
        rate = self._settings.learning_rate
        return {"loss": loss, "kl": kl, "entropy": entropy, "grad_norm": norm, "learning_rate": rate}

    def save(self, folder: Path) -> None:
        theta = {str(example): values for example, values in sorted(self._theta.items())}
        (folder / "policy.json").write_text(json.dumps({"theta": theta}))

    def load(self, folder: Path) -> None:
        stored: Mapping[str, list[float]] = json.loads((folder / "policy.json").read_text())["theta"]
        self._theta = {int(example): values for example, values in stored.items()}

    def _descend(self, gradient: Mapping[int, list[float]]) -> None:
        for example, slope in gradient.items():
            theta = self._theta.setdefault(example, [0.0] * len(slope))
            for j, value in enumerate(slope):
                theta[j] -= self._settings.learning_rate * value

    def _probabilities(self, example: Example, temperature: float) -> list[float]:
        count = len(self._candidates.of(example, self.prompt(example)))
        logits = [value / (temperature or 1.0) for value in self._theta.get(example.id, [0.0] * count)]
        top = max(logits)
        weights = [math.exp(value - top) for value in logits]
        total = math.fsum(weights)
        return [max(weight / total, 1e-12) for weight in weights]

    def _pick(self, example: Example, temperature: float, seed: int) -> int:
        p = self._probabilities(example, temperature)
        if temperature == 0:
            return max(range(len(p)), key=p.__getitem__)
        return random.Random(seed).choices(range(len(p)), weights=p)[0]


class Candidates:
    """The recorded completions: rows of JSON lines with `completions` and either the `prompt` or columns to match."""

    def __init__(self, file: Path) -> None:
        self._by_prompt: dict[str, list[str]] = {}
        self._rows: list[tuple[dict[str, Any], list[str]]] = []
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if line.strip():
                self._add(_parse(file, number, line))
        self._found: dict[int, list[str]] = {}

    def _add(self, row: dict[str, Any]) -> None:
        completions = row.pop("completions")
        if isinstance(row.get("prompt"), str):
            self._by_prompt[row["prompt"]] = completions
        else:
            self._rows.append((row, completions))

    def of(self, example: Example, prompt: str) -> list[str]:
        """The example's candidates. Raises JobError when none are recorded for it."""
        if example.id not in self._found:
            self._found[example.id] = self._by_prompt.get(prompt) or self._match(example)
        return self._found[example.id]

    def _match(self, example: Example) -> list[str]:
        for columns, completions in self._rows:
            if all(example.columns.get(name) == value for name, value in columns.items()):
                return completions
        raise JobError(
            [
                Finding(
                    code="no-completions",
                    field="emulator.completions",
                    message=f"No recorded completions for example {example.id}: {dict(example.columns)!r:.200}.",
                    hint="Add a row with this prompt (or these columns) and a list `completions`.",
                )
            ]
        )


def _parse(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
        texts: Any = row["completions"]
        if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):  # pyright: ignore[reportUnknownVariableType]
            return row
        problem = "`completions` must be a list of at least one text"
    except (ValueError, KeyError, TypeError) as error:
        problem = f"not a JSON object with `completions` ({error})"
    raise JobError([Finding(code="completions-row", file=str(file), line=number, message=f"{problem}: {line:.80}")])


def _completion(text: str) -> Completion:
    return Completion(text=text, n_tokens=len(text.encode()) // BYTES_PER_TOKEN + 1, finish="eos")
