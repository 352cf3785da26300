"""Rewards of the countdown game: use each given number once to reach a target.

A reward function takes the prompt, one completion and the dataset row, and returns a number, or a dict with a `score`
and the `reason` for it. Edit this file while the job trains: a changed version is checked and goes live between two
batches. Completions are written by a model, so nothing here runs them: expressions are parsed, never evaluated as code.
"""

import ast
import operator
import re

FORMAT = re.compile(r"<think>(?:(?!</?think>).)*</think>\n<answer>(?:(?!</?answer>).)*</answer>", re.DOTALL)
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def format_reward(prompt, completion, example):
    """1 if the completion is exactly <think>…</think>, a newline, <answer>…</answer>."""
    text = "<think>" + completion  # the prompt ends with the opening tag
    if FORMAT.fullmatch(text):
        return 1.0
    return zero("not <think>…</think>, newline, <answer>…</answer>")


def equation_reward(prompt, completion, example):
    """1 if the answer uses each number once and equals the target."""
    answer = ANSWER.search("<think>" + completion)
    if not answer:
        return zero("no <answer>…</answer>")
    try:
        value, used = evaluate(answer[1])
    except (ValueError, ZeroDivisionError) as error:
        return zero(str(error))
    if sorted(used) != sorted(example["nums"]):
        return zero(f"used {used}, given {example['nums']}")
    if not abs(value - example["target"]) < 1e-5:
        return zero(f"equals {value:g}, not {example['target']}")
    return 1.0


def length(prompt, completion, example):
    """Characters of the completion: recorded, not optimised."""
    return len(completion)


def zero(reason):
    return {"score": 0.0, "reason": reason}


def evaluate(text):
    """The value of an arithmetic expression, and the numbers in it. Raises ValueError for anything else."""
    if len(text) > 100:
        raise ValueError("answer longer than 100 characters")
    used = []

    def value(node):
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            used.append(node.value)
            return node.value
        raise ValueError("only numbers, + - * / and parentheses are allowed")

    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"not an expression: {text.strip()!r}") from None
    return value(tree.body), used
