"""The countdown example's rewards: what they accept, and the reason for every zero."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

REWARDS = Path(__file__).parents[2] / "jobs" / "examples" / "countdown" / "rewards.py"
EXAMPLE = {"nums": [3, 5, 2], "target": 17}


@pytest.fixture(scope="module")
def rewards() -> ModuleType:
    spec = importlib.util.spec_from_file_location("countdown_rewards", REWARDS)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("3*5=15</think>\n<answer>3*5+2</answer>", 1.0),
        ("</think>\n<answer></answer>", 1.0),
        ("line\nline</think>\n<answer>3*5\n+2</answer>", 1.0),
        ("3*5=15</think><answer>3*5+2</answer>", 0.0),
        ("3*5=15</think>\n\n<answer>3*5+2</answer>", 0.0),
        ("3*5=15</think>\n<answer>3*5+2</answer>\n", 0.0),
        ("3*5=15</think>\n<answer>3*5+2", 0.0),
        ("3*5=15\n<answer>3*5+2</answer>", 0.0),
        ("<think>3*5=15</think>\n<answer>3*5+2</answer>", 0.0),
        ("a</think>\n<answer>1</answer>\n<answer>2</answer>", 0.0),
    ],
)
def test_the_format_is_the_two_tags_on_two_lines_and_nothing_else(
    rewards: ModuleType, completion: str, score: float
) -> None:
    given = rewards.format_reward("", completion, EXAMPLE)
    assert (given["score"] if isinstance(given, dict) else given) == score


@pytest.mark.parametrize("answer", ["3*5+2", "2 + 5*3", " (3*5)+2 ", "2--3*5", "5*3+2.0"])
def test_an_expression_of_the_target_with_each_number_once_scores_1(rewards: ModuleType, answer: str) -> None:
    assert rewards.equation_reward("", f"</think>\n<answer>{answer}</answer>", EXAMPLE) == 1.0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("3*5-2", "equals 13, not 17"),
        ("3*5+2+2", "used [3, 5, 2, 2], given [3, 5, 2]"),
        ("17", "used [17], given [3, 5, 2]"),
        ("3*5+2=17", "not an expression: '3*5+2=17'"),
        ("3**5+2", "only numbers, + - * / and parentheses are allowed"),
        ("9**9**9**9", "only numbers, + - * / and parentheses are allowed"),
        ("3//5+2", "only numbers, + - * / and parentheses are allowed"),
        ("__import__('os').system('id')", "only numbers, + - * / and parentheses are allowed"),
        ("[3,5,2]", "only numbers, + - * / and parentheses are allowed"),
        ("True+5+2", "only numbers, + - * / and parentheses are allowed"),
        ("3/(5-5)", "division by zero"),
        ("", "not an expression: ''"),
        ("(" * 90, f"not an expression: {'(' * 90!r}"),
        ("1+" * 60 + "1", "answer longer than 100 characters"),
    ],
)
def test_any_other_answer_scores_0_and_says_why(rewards: ModuleType, answer: str, reason: str) -> None:
    given = rewards.equation_reward("", f"</think>\n<answer>{answer}</answer>", EXAMPLE)
    assert given == {"score": 0.0, "reason": reason}


def test_without_an_answer_there_is_nothing_to_score(rewards: ModuleType) -> None:
    assert rewards.equation_reward("", "3*5=15", EXAMPLE) == {"score": 0.0, "reason": "no <answer>…</answer>"}


def test_the_length_is_counted_in_characters(rewards: ModuleType) -> None:
    assert rewards.length("", "12345", EXAMPLE) == 5


def test_the_example_is_left_as_it_was(rewards: ModuleType) -> None:
    example = {"nums": [3, 5, 2], "target": 17}
    rewards.equation_reward("", "</think>\n<answer>3*5+2</answer>", example)
    assert example == {"nums": [3, 5, 2], "target": 17}
