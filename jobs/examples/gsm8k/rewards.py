"""Rewards for grade-school maths: does it end with `#### number`, and is the number right?"""

import re

ANSWER = re.compile(r"####\s*(-?[\d,]*\.?\d+)\s*$")


def number_after_hashes(text: str) -> float | None:
    """The final answer, as in GSM8K: the number behind `####` at the very end."""
    found = ANSWER.search(text.strip())
    return float(found.group(1).replace(",", "")) if found else None


def format_reward(prompt: str, completion: str, example: dict) -> float:
    return 1.0 if number_after_hashes(completion) is not None else 0.0


def answer_reward(prompt: str, completion: str, example: dict) -> dict:
    given, gold = number_after_hashes(completion), number_after_hashes(example["answer"])
    if given is None:
        return {"score": 0.0, "reason": "no final answer"}
    if given != gold:
        return {"score": 0.0, "reason": f"{given:g} is not {gold:g}"}
    return {"score": 1.0, "reason": "right"}


def steps(prompt: str, completion: str, example: dict) -> float:
    """Recorded, not optimised: lines of working."""
    return float(len([line for line in completion.splitlines() if line.strip()]))
