# pyright: basic
"""Calls reward functions as Predibase does: every value of `example` is text, and what is no number counts as 0.

The 0 is recorded with its outcome (`non_numeric`), under the `on_error: zero` that the style sets.
"""


def adapted(function):
    """The function with an all-text example."""

    def reward(prompt, completion, example):
        result = function(prompt, completion, {name: _text(value) for name, value in example.items()})
        return {"score": "nothing", "reason": "returned None, which counts as 0"} if result is None else result

    return reward


def _text(value):
    return value if isinstance(value, str) else "" if value is None else str(value)
