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
SMALLEST = 1e-12
"""Probabilities are kept above this, so that every logarithm is finite."""
BYTES_PER_TOKEN = 4
"""Recorded text has no tokens; its length is reported as bytes / 4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Completions with what drew them."""

    completions: list[list[Completion]]
    prompts: list[str]
    picks: list[list[int]]
    """Index of each completion among its prompt's texts. [group][generation]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySettings:
    learning_rate: float
    beta: float
    temperature: float


@dataclass(slots=True)
class Choice:
    """What the policy knows of one prompt."""

    texts: list[str]
    theta: list[float]
    """A logit for each text; all 0 at the start."""


class ReplayPolicy:
    """p(text | prompt) = softmax(θ[prompt] / temperature)[text], θ = 0 at the start (also the reference)."""

    def __init__(self, file: Path, settings: ReplaySettings) -> None:
        self._recorded = Recorded(file)
        self._settings = settings
        self._choices: dict[str, Choice] = {}

    def prompt(self, example: Example) -> str:
        if isinstance(example.prompt, str):
            return example.prompt
        return "\n".join(message["content"] for message in example.prompt)

    def sample(self, examples: Sequence[Example], sampling: Sampling, seeds: Sequence[Sequence[int]]) -> Drawn:
        choices = [self._choice(example) for example in examples]
        picks = [
            [_pick(choice, sampling.temperature, seed) for seed in group]
            for choice, group in zip(choices, seeds, strict=True)
        ]
        completions = [
            [_completion(choice.texts[pick]) for pick in group] for choice, group in zip(choices, picks, strict=True)
        ]
        return Drawn(completions=completions, prompts=[self.prompt(example) for example in examples], picks=picks)

    def update(self, sampled: Sampled, advantages: Sequence[float], step: int) -> Mapping[str, float]:
        """One gradient step on L = mean over completions of −A·log p + β·k3, k3 = e^(q−l) − (q−l) − 1 (Schulman),
        l = log p and q = log p_ref of the completion drawn; dL/dl = −A + β·(1 − e^(q−l))."""
        assert isinstance(sampled, Drawn), "a policy is updated on what it drew itself"
        settings, n = self._settings, len(advantages)
        remaining = iter(advantages)
        loss, kl, entropy = 0.0, 0.0, 0.0
        slopes: dict[str, list[float]] = {}
        for prompt, group in zip(sampled.prompts, sampled.picks, strict=True):
            p = _probabilities(self._choices[prompt], settings.temperature)
            slope = slopes.setdefault(prompt, [0.0] * len(p))
            entropy -= sum(q * math.log(q) for q in p) * len(group) / n
            for pick, advantage in zip(group, remaining, strict=False):
                gap = -math.log(len(p)) - math.log(p[pick])
                divergence = math.exp(gap) - gap - 1
                push = -advantage + settings.beta * (1 - math.exp(gap))
                loss += (-advantage + settings.beta * divergence) / n
                kl += divergence / n
                for j, q in enumerate(p):
                    slope[j] += push * ((j == pick) - q) / len(group)
        norm = math.sqrt(math.fsum(x * x for slope in slopes.values() for x in slope))
        self._descend(slopes)
        return {
            "loss": loss,
            "kl": kl,
            "entropy": entropy,
            "grad_norm": norm,
            "learning_rate": settings.learning_rate,
        }

    def save(self, folder: Path) -> None:
        stored = {prompt: {"texts": c.texts, "theta": c.theta} for prompt, c in sorted(self._choices.items())}
        (folder / "policy.json").write_text(json.dumps(stored))

    def load(self, folder: Path) -> None:
        stored: Mapping[str, Any] = json.loads((folder / "policy.json").read_text())
        self._choices = {prompt: Choice(**choice) for prompt, choice in stored.items()}

    def _choice(self, example: Example) -> Choice:
        prompt = self.prompt(example)
        if prompt not in self._choices:
            texts = self._recorded.of(example, prompt)
            self._choices[prompt] = Choice(texts, [0.0] * len(texts))
        return self._choices[prompt]

    def _descend(self, slopes: Mapping[str, list[float]]) -> None:
        for prompt, slope in slopes.items():
            theta = self._choices[prompt].theta
            for j, value in enumerate(slope):
                theta[j] -= self._settings.learning_rate * value


def _probabilities(choice: Choice, temperature: float) -> list[float]:
    logits = [value / (temperature or 1.0) for value in choice.theta]
    top = max(logits)
    weights = [math.exp(value - top) for value in logits]
    total = math.fsum(weights)
    return [max(weight / total, SMALLEST) for weight in weights]


def _pick(choice: Choice, temperature: float, seed: int) -> int:
    p = _probabilities(choice, temperature)
    if temperature == 0:
        return max(range(len(p)), key=p.__getitem__)
    return random.Random(seed).choices(range(len(p)), weights=p)[0]


class Recorded:
    """The recorded completions: rows of JSON lines with `completions` and either the `prompt` or columns to match."""

    def __init__(self, file: Path) -> None:
        self._by_prompt: dict[str, list[str]] = {}
        self._by_columns: list[tuple[dict[str, Any], list[str]]] = []
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if line.strip():
                self._add(_parse(file, number, line))

    def _add(self, row: dict[str, Any]) -> None:
        completions = row.pop("completions")
        if isinstance(row.get("prompt"), str):
            self._by_prompt[row["prompt"]] = completions
        else:
            self._by_columns.append((row, completions))

    def of(self, example: Example, prompt: str) -> list[str]:
        """What was recorded for the example. Raises JobError when that is nothing."""
        if prompt in self._by_prompt:
            return self._by_prompt[prompt]
        for columns, completions in self._by_columns:
            if all(name in example.columns and example.columns[name] == value for name, value in columns.items()):
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
