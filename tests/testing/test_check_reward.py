"""The test kit finds what is wrong with a reward, and leaves a good one alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runner.testing import Case, RewardUnderTest, adversarial, check_reward

GOLD = "42"
GOOD = f"6 · 7\n#### {GOLD}"


def last_line(prompt, completion, example):
    found = re.fullmatch(r"#### (\d{1,9})", completion.strip().split("\n")[-1])
    spam = completion.count("####") > 1
    return 1.0 if found and not spam and int(found[1]) == example["answer"] else 0.0


def anywhere(prompt, completion, example):
    return float(str(example["answer"]) in completion)


def trusting(prompt, completion, example):
    return float(int(completion.split("####")[1]) == example["answer"])


def spinning(prompt, completion, example):
    while "9**9**9" in completion:
        pass
    return 0.0


def rolling(prompt, completion, example):
    import random

    return random.random()


CASES = [(GOOD, 1.0), ("#### 41", 0.0)]


def test_a_sound_reward_passes_and_every_call_is_told() -> None:
    checked = check_reward(last_line, CASES, example={"answer": 42}, gold=GOLD, prompt="6 · 7?", bounds=(0, 1))
    assert [item.title for item in checked[:3]] == ["case 1", "case 2", "empty"]
    assert {"gold spam", "format only", "all answers"} <= {item.title for item in checked}
    assert all(not item.problems for item in checked)


def test_a_reward_that_pays_for_spam_is_found_out() -> None:
    with pytest.raises(AssertionError) as failed:
        check_reward(anywhere, CASES, example={"answer": 42}, gold=GOLD)
    told = str(failed.value)
    assert "- gold spam (" in told and "- all answers (" in told
    assert "gave 1.0, as much as the best case (1): a policy will find that" in told
    assert "- empty" not in told


def test_inputs_that_may_score_are_named() -> None:
    allowed = ["gold spam", "all answers", "repetition", "unicode"]
    check_reward(anywhere, CASES, example={"answer": 42}, gold=GOLD, allow=allowed)


def test_a_reward_that_fails_on_odd_text_is_told_with_its_error_and_line() -> None:
    with pytest.raises(
        AssertionError, match=r"- empty \(''\): exception: IndexError: list index out of range"
    ) as failed:
        check_reward(trusting, CASES, example={"answer": 42})
    assert "int(completion.split" in str(failed.value)


def test_a_reward_that_hangs_costs_its_deadline_and_is_told() -> None:
    with pytest.raises(AssertionError, match=r"huge power.*timeout: no result after 1 s"):
        check_reward(spinning, max_seconds=0.05)


def test_a_reward_that_gives_something_else_each_time_is_told_unless_it_may() -> None:
    with pytest.raises(AssertionError, match="for the same input"):
        check_reward(rolling)
    check_reward(rolling, deterministic=False)


def test_wrong_values_and_values_out_of_bounds_are_told() -> None:
    with pytest.raises(AssertionError) as failed:
        check_reward(last_line, [Case(GOOD, 0.5, {"answer": 42})], example={"answer": 1}, bounds=(0, 0.9))
    assert "case 1 ('6 · 7\\n#### 42'): gave 1.0, expected 0.5" in str(failed.value)
    assert "gave 1.0, outside of 0 … 0.9" in str(failed.value)


def test_expected_values_may_be_approximate_or_none() -> None:
    source = "def f(prompt, completion, example):\n    return None if not completion else len(completion) / 3\n"
    check_reward(file_of(source), [("", None), ("abcd", pytest.approx(1.3333, abs=1e-3))], allow=list(adversarial()))


def file_of(source: str, folder: list[Path] = []) -> str:  # noqa: B006
    import tempfile

    path = Path(tempfile.mkdtemp(prefix="kit-")) / "r.py"
    path.write_text(source)
    return f"{path}:f"


def test_one_function_can_be_called_like_a_function() -> None:
    with RewardUnderTest(last_line) as score:
        assert score(GOOD, answer=42) == 1.0
        assert score("no", answer=42) == 0.0
        with pytest.raises(AssertionError, match="exception: KeyError: 'answer'"):
            score(GOOD)


def test_functions_of_other_styles_can_be_checked() -> None:
    source = (
        "def f(completions, answer, **kwargs):\n    return [float(t == str(a)) for t, a in zip(completions, answer)]\n"
    )
    with RewardUnderTest(file_of(source), style="trl") as score:
        assert score("42", answer=42) == 1.0
