# pyright: basic
"""OpenAI's graders as rewards: `string_check`, `python`, `score_model`, `multi`. The grader was checked before.

The namespaces are OpenAI's: `item` is the dataset row; `sample` has `output_text`, `output_json` (None where the text
is no JSON), `output_tools` and `choices`.
"""

import ast
import json
import math
import os
import re
import urllib.error
import urllib.request

TEMPLATE = re.compile(r"\{\{\s*(item|sample)((?:\.\w+|\[\d+\])+)\s*\}\}")
OPERATORS = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}
FUNCTIONS = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}


def made_of(grader, sources):
    """The reward of a grader. `sources`: modules of its `python` graders, by the grader's path."""

    def reward(prompt, completion, example):
        return _grade(grader, "", sources, _sample(completion), example)

    return reward


def _sample(completion):
    try:
        parsed = json.loads(completion)
    except (ValueError, RecursionError):
        parsed = None
    message = {"role": "assistant", "content": completion}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {"output_text": completion, "output_json": parsed, "output_tools": [], "choices": choices}


def _grade(grader, path, sources, sample, item):
    kind = grader["type"]
    if kind == "string_check":
        return _string_check(grader, sample, item)
    if kind == "python":
        return sources[path].grade(sample, item)
    if kind == "score_model":
        return _score_model(grader, sample, item)
    return _multi(grader, sources, sample, item)


def _string_check(grader, sample, item):
    given, wanted = (_filled(grader[name], sample, item) for name in ("input", "reference"))
    operation = grader["operation"]
    if operation == "like":
        return float(wanted in given)
    if operation == "ilike":
        return float(wanted.lower() in given.lower())
    return float((given == wanted) == (operation == "eq"))


def _filled(text, sample, item):
    """The text with its templates' values: text as it stands, anything else as JSON."""

    def value(match):
        found = _at({"item": item, "sample": sample}[match[1]], match[2], match[0])
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)

    return TEMPLATE.sub(value, text)


def _at(tree, path, template):
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", path):
        try:
            tree = tree[int(index)] if index else tree[name]
        except (KeyError, IndexError, TypeError):
            raise KeyError(f"{template}: there is no `{name or index}`") from None
    return tree


def _multi(grader, sources, sample, item):
    parts = {name: _grade(inner, name, sources, sample, item) for name, inner in grader["graders"].items()}
    score = _value(ast.parse(grader["calculate_output"].strip(), mode="eval").body, parts)
    return {"score": score, "reason": ", ".join(f"{name} {value:g}" for name, value in parts.items())}


def _value(node, names) -> float:
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.Constant):
        return node.value  # type: ignore  (a number, as was checked)
    if isinstance(node, ast.UnaryOp):
        value = _value(node.operand, names)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](_value(node.left, names), _value(node.right, names))
    assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name), "checked before"
    return FUNCTIONS[node.func.id](*(_value(argument, names) for argument in node.args))


# ------------------------------------------------------------------------------------------------- a model's opinion


def _score_model(grader, sample, item):
    low, high = grader.get("range", [0, 1])
    messages = [
        {"role": message["role"], "content": _filled(_text(message["content"]), sample, item)}
        for message in grader["input"]
    ]
    request = {"model": grader["model"], "messages": messages, **grader.get("sampling_params", {})}
    said = _post(grader["base_url"].rstrip("/") + "/chat/completions", {**request, "response_format": FORMAT})
    result, reason = _parsed(said["choices"][0]["message"]["content"])
    if not low <= result <= high:
        raise ValueError(f"the model gave {result}, outside of its range [{low}, {high}]")
    return {"score": result, "reason": reason}


FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "score",
        "schema": {
            "type": "object",
            "properties": {"reason": {"type": "string"}, "result": {"type": "number"}},
            "required": ["result"],
        },
    },
}


def _text(content):
    return content if isinstance(content, str) else content["text"]


def _post(url, body):
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        said = error.read(500).decode("utf-8", "replace")
        raise ConnectionError(f"{url} answered {error.code}: {said}") from None


def _parsed(text):
    """Score and reason: of the JSON asked for, else the last number in the text."""
    try:
        answer = json.loads(text)
        return float(answer["result"]), answer.get("reason")
    except (ValueError, TypeError, KeyError, AttributeError):
        numbers = re.findall(r"-?\d+(?:\.\d+)?", text)
    if not numbers:
        raise ValueError(f"the model's answer has no number: {text[:200]!r}")
    return float(numbers[-1]), text
