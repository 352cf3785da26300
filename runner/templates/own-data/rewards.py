"""What a good completion is. A reward function takes the prompt, one completion and the dataset row.

It returns a number, or a dict with a `score` and the `reason` for it, or None where it does not apply. Edit this file
while the job trains: a changed version is checked and goes live between two batches.
"""

import re

LAST_LINE = re.compile(r"^Answer: *(.+?)\s*$")


def given_answer(completion):
    """What stands behind `Answer:` on the last line, or None."""
    lines = completion.strip().splitlines()
    found = LAST_LINE.match(lines[-1]) if lines else None
    return found[1] if found else None


def format_reward(prompt, completion, example):
    """1 if the last line is `Answer: …`."""
    return 1.0 if given_answer(completion) is not None else 0.0


def answer_reward(prompt, completion, example):
    """1 if the answer is the row's, whatever the case of its letters."""
    given, right = given_answer(completion), str(example["answer"])
    if given is None:
        return {"score": 0.0, "reason": "no last line `Answer: …`"}
    if given.casefold() != right.casefold():
        return {"score": 0.0, "reason": f"{given} is not {right}"}
    return {"score": 1.0, "reason": "right"}


def words(prompt, completion, example):
    """Length in words: recorded, not optimised."""
    return len(completion.split())
