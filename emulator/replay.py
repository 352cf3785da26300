"""`replay`: a softmax policy over recorded completions of each prompt, learning by real GRPO gradients. No torch.

Realistic text for the rewards in well under a second; what it can't show is a model that writes something new.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulator.policy import Sampled, Sampling
from runner.grpo.types import Completion, Example
from runner.journal.completions import recorded
from runner.spec.errors import Finding, JobError
from runner.spec.model import Grpo

DEFAULT_LEARNING_RATE = 1.0
SMALLEST = 1e-12
"""Probabilities are kept above this, so that every logarithm is finite."""
BYTES_PER_TOKEN = 4
"""Recorded text has no tokens; its length is reported as bytes / 4."""


BATCH = "batch.json"


@dataclass(slots=True, kw_only=True)
class Drawn:
    """Completions with what drew them."""

    completions: list[list[Completion]]
    prompts: list[str]
    picks: list[list[int]]
    """Index of each completion among its prompt's texts. [group][generation]"""
    old_logps: list[float] | None = None
    """log p of each completion when the first of several steps on the batch began. [n]"""

    def save(self, folder: Path) -> None:
        stored = {"prompts": self.prompts, "picks": self.picks, "old_logps": self.old_logps}
        (folder / BATCH).write_text(json.dumps(stored))


@dataclass(slots=True)
class Choice:
    """What the policy knows of one prompt."""

    texts: list[str]
    theta: list[float]
    """A logit for each text; all 0 at the start."""


@dataclass(slots=True)
class Sums:
    """Means over a step's completions, as they add up."""

    loss: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0


class ReplayPolicy:
    """p(text | prompt) = softmax(θ[prompt] / temperature)[text], θ = 0 at the start (also the reference)."""

    def __init__(self, recorded: Recorded, grpo: Grpo, learning_rate: float) -> None:
        self._recorded, self._grpo, self._learning_rate = recorded, grpo, learning_rate
        self._choices: dict[str, Choice] = {}

    def prompt(self, example: Example) -> str:
        return prompt_text(example)

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

    def update(
        self, sampled: Sampled, advantages: Sequence[float], step: int, rows: Sequence[int] | None = None
    ) -> Mapping[str, float]:
        """One gradient step on the mean over completions of −min(ρ·A, clip(ρ)·A) + β·k3, where a completion is one
        action: ρ = p / p_old, k3 = e^(q−l) − (q−l) − 1 (Schulman), l = log p and q = log p_ref of the completion."""
        assert isinstance(sampled, Drawn), "a policy is updated on what it drew itself"
        drawn, grpo = sampled, self._grpo
        whole = [(prompt, pick) for prompt, group in zip(drawn.prompts, drawn.picks, strict=True) for pick in group]
        p = {prompt: _probabilities(self._choices[prompt], grpo.temperature) for prompt in dict.fromkeys(drawn.prompts)}
        entropy = {prompt: -sum(q * math.log(q) for q in found) for prompt, found in p.items()}
        if drawn.old_logps is None and grpo.generate_every * grpo.num_iterations > 1:
            drawn.old_logps = [math.log(p[prompt][pick]) for prompt, pick in whole]
        used = range(len(whole)) if rows is None else rows
        sums, slopes = Sums(), dict[str, list[float]]()
        for row in used:
            prompt, pick = whole[row]
            old = math.log(p[prompt][pick]) if drawn.old_logps is None else drawn.old_logps[row]
            push = self._push(p[prompt], pick, advantages[row], old, sums) / len(drawn.picks[0])
            sums.entropy += entropy[prompt]
            slope = slopes.setdefault(prompt, [0.0] * len(p[prompt]))
            for j, q in enumerate(p[prompt]):
                slope[j] += push * ((j == pick) - q)
        norm = math.sqrt(math.fsum(x * x for slope in slopes.values() for x in slope))
        self._descend(slopes)
        n = len(used)
        return {
            "loss": sums.loss / n,
            "kl": sums.kl / n,
            "entropy": sums.entropy / n,
            "grad_norm": norm,
            "learning_rate": self._learning_rate,
        }

    def _push(self, p: Sequence[float], pick: int, advantage: float, old: float, sums: Sums) -> float:
        """d(loss of one completion)/dl; its figures are added to `sums`."""
        now, gap = math.log(p[pick]), -math.log(len(p)) - math.log(p[pick])
        ratio, divergence = math.exp(now - old), math.exp(gap) - gap - 1
        surrogate, slope = _clipped(ratio, advantage, self._grpo)
        sums.loss += -surrogate + self._grpo.beta * divergence
        sums.kl += divergence
        return -slope + self._grpo.beta * (1 - math.exp(gap))

    def save(self, folder: Path) -> None:
        stored = {prompt: {"texts": c.texts, "theta": c.theta} for prompt, c in sorted(self._choices.items())}
        (folder / "policy.json").write_text(json.dumps(stored))

    def load(self, folder: Path) -> None:
        stored: Mapping[str, Any] = json.loads((folder / "policy.json").read_text())
        self._choices = {prompt: Choice(**choice) for prompt, choice in stored.items()}

    def load_drawn(self, folder: Path) -> Drawn:
        return Drawn(completions=[], **json.loads((folder / BATCH).read_text()))

    def _choice(self, example: Example) -> Choice:
        prompt = self.prompt(example)
        if prompt not in self._choices:
            texts = self._recorded.of(example)
            if not texts:
                raise JobError([missing([example])])
            self._choices[prompt] = Choice(list(texts), [0.0] * len(texts))
        return self._choices[prompt]

    def _descend(self, slopes: Mapping[str, list[float]]) -> None:
        for prompt, slope in slopes.items():
            theta = self._choices[prompt].theta
            for j, value in enumerate(slope):
                theta[j] -= self._learning_rate * value


def _clipped(ratio: float, advantage: float, grpo: Grpo) -> tuple[float, float]:
    """min(min(ρ, δ)·A, clip(ρ, 1−ε, 1+ε_high)·A), and its derivative by log ρ."""
    high = grpo.epsilon if grpo.epsilon_high is None else grpo.epsilon_high
    free = ratio if grpo.delta is None else min(ratio, grpo.delta)
    held = min(max(ratio, 1 - grpo.epsilon), 1 + high)
    if free * advantage <= held * advantage:
        return free * advantage, ratio * advantage if free == ratio else 0.0
    return held * advantage, 0.0


def prompt_text(example: Example) -> str:
    """What a recorded completion is found by: the prompt, or the contents of its messages, one below the other."""
    if isinstance(example.prompt, str):
        return example.prompt
    return "\n".join(message["content"] for message in example.prompt)


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
    """Recorded completions: rows of JSON lines with `completions` and either the `prompt` or columns to match, or a run
    folder. Raises JobError for a row that says neither."""

    def __init__(self, path: Path) -> None:
        self._by_prompt: dict[str, list[str]] = {}
        self._by_columns: dict[tuple[str, ...], dict[str, list[str]]] = {}
        for row in recorded(path) if path.is_dir() else _rows(path):
            completions: list[str] = row.pop("completions")
            if isinstance(row.get("prompt"), str):
                self._by_prompt[row["prompt"]] = completions
            else:
                names = tuple(sorted(row))
                self._by_columns.setdefault(names, {}).setdefault(_key(row, names), completions)

    def of(self, example: Example) -> list[str]:
        """What was recorded for the example; may be nothing."""
        texts = self._by_prompt.get(prompt_text(example), [])
        for names, found in self._by_columns.items():
            texts = texts or found.get(_key(example.columns, names), [])
        return texts


def _key(columns: Mapping[str, Any], names: Sequence[str]) -> str:
    return json.dumps([_plain(columns.get(name)) for name in names], default=str)


def _plain(value: Any) -> Any:
    """1.0 and 1 are the same value, whatever kind of file they come from."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def missing(examples: Sequence[Example]) -> Finding:
    """The finding for examples without a recorded completion."""
    first = examples[0]
    which = f"example {first.id}: {dict(first.columns)!r:.200}" if first.columns else f"{prompt_text(first)!r:.200}"
    return Finding(
        code="no-completions",
        field="emulator.completions",
        message=f"{len(examples)} of the prompts have no recorded completions; the first is {which}",
        hint="add rows with the prompt (or these columns) and a list `completions`",
    )


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if line.strip():
            yield _parse(file, number, line)


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
