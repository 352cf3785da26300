"""Reward functions as Predibase takes them: three parameters, imports inside, a number from 0 to 1.

The rules are those of its countdown example, with one difference: the expression is parsed, never evaluated as code.
"""


def format_reward_func(prompt: str, completion: str, example: dict[str, str]) -> float:
    import re

    text = "<think>" + completion  # the prompt ends with the opening tag
    pattern = r"<think>([^<]*(?:<(?!/?think>)[^<]*)*)</think>\n<answer>([\s\S]*?)</answer>$"
    score = 1.0 if re.search(pattern, text) else 0.0
    print(f"format: {score}")
    return score


def equation_reward_func(prompt: str, completion: str, example: dict[str, str]) -> float:
    import ast
    import operator
    import re

    operators = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}

    def value(node):
        if isinstance(node, ast.BinOp) and type(node.op) in operators:
            return operators[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return node.value
        raise ValueError("only numbers, + - * / and parentheses")

    found = re.search(r"<answer>(.*?)</answer>", "<think>" + completion, re.DOTALL)
    if found is None:
        return 0.0
    equation = found[1].strip()
    numbers = example["nums"]
    if isinstance(numbers, str):  # Predibase gives every column as a string
        numbers = ast.literal_eval(numbers)
    if sorted(int(number) for number in re.findall(r"\d+", equation)) != sorted(numbers):
        print(f"{equation}: other numbers than {numbers}")
        return 0.0
    try:
        result = value(ast.parse(equation, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError) as error:
        print(f"{equation}: {error}")
        return 0.0
    return 1.0 if abs(result - float(example["target"])) < 1e-5 else 0.0
