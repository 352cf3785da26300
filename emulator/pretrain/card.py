"""The model card: figures measured on the held-out problems, written beside the weights."""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

from emulator.lm.policy import LmPolicy
from emulator.policy import Sampling
from emulator.pretrain.problems import Problem, problems, solutions
from emulator.pretrain.text import OTHERS, countdown_messages, other_messages
from emulator.pretrain.train import CONFIG, HABITS, LEARN
from runner.data.examples import Example
from runner.spec.model import Grpo

WELL_FORMED = re.compile(r"((?!</?think>).)*</think>\n<answer>((?!</?answer>).)*</answer>", re.DOTALL)
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Shares of completions, and what drawing them took."""

    well_formed: float
    right: float
    """An expression of the target that uses each number once."""
    tokens: float
    """Mean length."""
    seconds: float


def measure(folder: Path, temperature: float) -> Figures:
    """One completion of every held-out problem behind the countdown job's own prompt."""
    asked = _held_out()
    policy = LmPolicy(folder, Grpo())
    examples = [Example(id=i, prompt=countdown_messages(problem), columns={}) for i, problem in enumerate(asked)]
    began = time.monotonic()
    sampling = Sampling(max_completion_length=40, temperature=temperature)
    drawn = policy.sample(examples, sampling, [[example.id] for example in examples]).completions
    texts = [group[0].text for group in drawn]
    return Figures(
        well_formed=sum(WELL_FORMED.fullmatch(text) is not None for text in texts) / len(texts),
        right=sum(_is_right(problem, text) for problem, text in zip(asked, texts, strict=True)) / len(texts),
        tokens=sum(group[0].n_tokens for group in drawn) / len(drawn),
        seconds=time.monotonic() - began,
    )


def measure_others(folder: Path) -> dict[str, float]:
    """Of every other task, the share of 256 prompts that are answered right, greedy."""
    rng, policy = random.Random("other tasks"), LmPolicy(folder, Grpo())
    shares: dict[str, float] = {}
    for name, task in OTHERS.items():
        asked = [task(rng) for _ in range(256)]
        examples = [Example(id=i, prompt=other_messages(user), columns={}) for i, (user, _, _) in enumerate(asked)]
        sampling = Sampling(max_completion_length=40, temperature=0.0)
        drawn = policy.sample(examples, sampling, [[0]] * len(asked)).completions
        right = [f"<answer>{row[2]}</answer>" in group[0].text for row, group in zip(asked, drawn, strict=True)]
        shares[name] = sum(right) / len(right)
    return shares


def _held_out() -> list[Problem]:
    rng = random.Random("held out")
    return [problem.shuffled(rng) for problem in problems() if problem.held_out]


def _is_right(problem: Problem, text: str) -> bool:
    """Whether the answer is one of the solutions, with the numbers in any order."""
    answer = ANSWER.search(text)
    known = {s.expression: s.value for nums in permutations(problem.nums) for s in solutions(nums)}
    return answer is not None and known.get(answer[1]) == problem.target


CARD = """# A tiny language model for the emulator

A decoder of Llama architecture: {layers} layers, width {width}, {heads} heads ({pairs} of keys and values), {tokens}
tokens, {parameters} parameters, float32. It plays the countdown game (three numbers, a target) and a few games beside
it; it exists so that a GRPO run can be watched learning on one CPU core. transformers opens this folder as it is.

Made by `python -m emulator.pretrain` from generated text, with no other data: {learn} steps of right solutions behind
many prompts, then {habits} steps of text whose quality is mixed on purpose. GRPO reinforces what a policy already does
some of the time, so the second stage teaches bad habits beside good ones: {equation:.0%} of the expressions without
parentheses are written as an equation (`<answer>3*5+2=17</answer>`, which the job's reward refuses), {wrong:.0%} of the
solutions miss the target, {broken:.0%} of the completions have a tag missing or misplaced. What the first stage learnt
is still there; reinforcement finds it again. Seeds 0 and 1, one thread, about 10 minutes.

Held out: {held_out} of the {all} problems (by a hash of numbers and target) are in no text the model has seen, in any
order of their numbers. One completion each, behind the countdown job's prompt:

| | well-formed | right | mean tokens |
|---|---|---|---|
{rows}

The other tasks it has read, in the same tags, as shipped, greedy, 256 prompts each:

| | right |
|---|---|
{others}
"""


def write_card(folder: Path, learned: Path) -> None:
    """Measures the finished model and the one before the habits, and writes `README.md`."""
    lines: list[str] = []
    for name, where in (("as shipped", folder), ("before the second stage", learned)):
        for how, temperature in (("greedy", 0.0), ("sampled at temperature 1", 1.0)):
            found = measure(where, temperature)
            lines.append(f"| {name}, {how} | {found.well_formed:.3f} | {found.right:.3f} | {found.tokens:.1f} |")
    text = CARD.format(
        parameters=f"{sum(p.numel() for p in LmPolicy(folder, Grpo()).model.parameters()):,}",
        layers=CONFIG.layers,
        width=CONFIG.hidden_size,
        heads=CONFIG.heads,
        pairs=CONFIG.kv_heads,
        tokens=CONFIG.vocab_size,
        learn=LEARN.steps,
        habits=HABITS.steps,
        equation=HABITS.mix.equation,
        wrong=HABITS.mix.wrong_result,
        broken=HABITS.mix.broken,
        held_out=sum(problem.held_out for problem in problems()),
        all=len(problems()),
        rows="\n".join(lines),
        others="\n".join(f"| {name} | {share:.3f} |" for name, share in measure_others(folder).items()),
    )
    (folder / "README.md").write_text(text)
