"""The text the model is pre-trained on: prompts of many forms, and completions of mixed quality.

The quality is mixed on purpose. GRPO reinforces what a policy already does some of the time, so the text shows the
right answer beside wrong sums, wrong numbers and broken tags, in the shares of `Mix`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from emulator.pretrain.problems import Problem, Solution, problems, solutions, solved
from runner.data.examples import Message

SYSTEM = "You first reason step by step, then answer."
PROMPT = (
    "Using the numbers {nums}, make an expression that equals {target}. Use each number once, with + - * / and "
    "parentheses. Work in <think> tags, then give the expression in <answer> tags."
)
PREFILL = "Let me solve this step by step.\n<think>"
"""The countdown job's system text, prompt template and prefilled turn, word for word."""

VARIANTS = (
    "Make {target} from {nums}.",
    "Use the numbers {nums} to reach {target}.",
    "Numbers: {nums}. Target: {target}.",
    "{nums} = {target}",
    "Combine {nums} with + - * / so that the result is {target}. Use each number once.",
    "Find an expression with {nums} whose value is {target}. Think first, then answer in <answer> tags.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Shares of what is wrong on purpose; what is left is right. Each completion draws once for each field."""

    wrong_result: float = 0.0
    """A correct calculation of something else than the target."""
    equation: float = 0.0
    """`<answer>3*5+2=17</answer>`: an equation where an expression was asked for. The share among expressions without
    parentheses; among the others it is a third of that."""
    broken: float = 0.0
    """A tag missing, doubled or in the wrong place."""
    wrong_numbers: float = 0.0
    """A number that was not given."""


@dataclass(frozen=True, slots=True)
class Text:
    messages: list[Message]
    """The last one is a prefilled assistant turn."""
    completions: list[str]


def countdown_messages(problem: Problem, rng: random.Random | None = None) -> list[Message]:
    """The job's own prompt; with `rng`, one of the variants."""
    if rng is None:
        return _chat(SYSTEM, PROMPT.format(nums=list(problem.nums), target=problem.target), PREFILL)
    shown = rng.choice((str(list(problem.nums)), ", ".join(map(str, problem.nums)), " ".join(map(str, problem.nums))))
    user = rng.choice(VARIANTS).format(nums=shown, target=problem.target)
    return _chat(SYSTEM if rng.random() < 0.2 else None, user, rng.choice((PREFILL, "<think>")))


def _chat(system: str | None, user: str, prefill: str) -> list[Message]:
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": user}, {"role": "assistant", "content": prefill}]


def countdown(problem: Problem, rng: random.Random, mix: Mix, n: int, *, own: bool) -> Text:
    """n completions of one problem, behind the job's own prompt or a variant of it."""
    messages = countdown_messages(problem, None if own else rng)
    return Text(messages, [completion(problem, rng, mix) for _ in range(n)])


def completion(problem: Problem, rng: random.Random, mix: Mix) -> str:
    """What follows the opening <think>."""
    shown = problem
    if rng.random() < mix.wrong_numbers:
        nums = list(problem.nums)
        nums[rng.randrange(3)] = rng.randint(1, 9)
        shown = Problem(tuple(nums), problem.target)
    solution = _pick(shown, rng, wrong=rng.random() < mix.wrong_result)
    answer = solution.expression
    if rng.random() < mix.equation / (3 if "(" in answer else 1):
        answer += f"={solution.value}"
    write = rng.choice(BROKEN) if rng.random() < mix.broken else _well_formed
    return write(solution.steps, answer)


def _pick(problem: Problem, rng: random.Random, *, wrong: bool) -> Solution:
    right = solved(problem)
    if wrong or not right:
        return rng.choice([s for s in solutions(problem.nums) if s.value < 100])
    return rng.choice(right)


def _well_formed(steps: str, answer: str) -> str:
    return f"{steps}</think>\n<answer>{answer}</answer>"


BROKEN: tuple[Callable[[str, str], str], ...] = (
    lambda steps, answer: f"{steps}\n<answer>{answer}</answer>",
    lambda steps, answer: f"{steps}</think> <answer>{answer}</answer>",
    lambda steps, answer: f"{steps}</think>\n\n<answer>{answer}</answer>",
    lambda steps, answer: f"{steps}</think>\n<answer>{answer}",
    lambda steps, answer: f"{steps}</think>\n{answer}",
)


def other(rng: random.Random, n: int) -> Text:
    """A small task of another kind in the same tags, so that another job's prompt is not met by gibberish."""
    user, steps, answer = rng.choice(tuple(OTHERS.values()))(rng)
    messages = _chat(SYSTEM if rng.random() < 0.3 else None, user, rng.choice((PREFILL, "<think>")))
    return Text(messages, [_well_formed(steps, answer)] * n)


def _sum(rng: random.Random) -> tuple[str, str, str]:
    a, b = rng.randint(1, 49), rng.randint(1, 49)
    user = rng.choice(("What is {a}+{b}?", "Add {a} and {b}.", "Calculate {a}+{b}.")).format(a=a, b=b)
    return user, f"{a}+{b}={a + b}", str(a + b)


def _larger(rng: random.Random) -> tuple[str, str, str]:
    a, b = rng.sample(range(100), 2)
    return f"Which number is larger, {a} or {b}?", f"{max(a, b)}>{min(a, b)}", str(max(a, b))


_WORDS = ("red", "blue", "green", "sun", "moon", "cat", "dog", "tree", "river", "stone", "apple", "bread", "house")


def _reverse(rng: random.Random) -> tuple[str, str, str]:
    words = rng.sample(_WORDS, 3)
    return f"Reverse the order of these words: {' '.join(words)}", " ".join(words), " ".join(reversed(words))


def _copy(rng: random.Random) -> tuple[str, str, str]:
    word = rng.choice(_WORDS)
    return f"Answer with the word {word}.", word, word


OTHERS: dict[str, Callable[[random.Random], tuple[str, str, str]]] = {
    "adding two numbers below 50": _sum,
    "the larger of two numbers": _larger,
    "three words in reverse order": _reverse,
    "a word copied": _copy,
}
"""Each gives a user's text, the work and the answer."""


def other_messages(user: str) -> list[Message]:
    """The prompt of such a task, in the form of the countdown job's."""
    return _chat(SYSTEM, user, PREFILL)


def training_problems() -> list[Problem]:
    return [problem for problem in problems() if not problem.held_out]
