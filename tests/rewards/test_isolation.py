"""A call that changes the interpreter: in isolation the change dies with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.rewards.contract import Outcome
from runner.rewards.host import RewardHost
from tests.rewards.helpers import bundle_of, group, version_of

POISONS = {
    "grader": "import rewards; rewards.grade = lambda text: 999.0",
    "builtins": "import builtins; builtins.float = lambda value: 999.0; builtins.len = lambda value: 999",
    "json": "import json; json.loads = json.dumps = lambda *_, **__: {'answer': 999}",
    "time": "import time; time.perf_counter = lambda: 1 / 0",
    "ours": (
        "import sys\n"
        "for name, module in list(sys.modules.items()):\n"
        "    if name.startswith('reward_process'):\n"
        "        for key in list(vars(module)):\n"
        "            if callable(vars(module)[key]): setattr(module, key, lambda *_, **__: 999.0)"
    ),
    "os": "import os; os._exit = os.write = os.fork = os.pipe = lambda *_: 999",
    "modules": "import sys; sys.modules.clear()",
    "gc": "import gc\nfor it in gc.get_objects():\n    if type(it) is dict and 'loaded' in it: it.clear()",
    "answer": "print('x'); raise SystemExit",
}

SOURCE = """
def grade(text):
    return float(len(text))

def score(prompt, completion, example):
    if "import" in completion:
        exec(completion)
    return grade(completion)
"""


@pytest.mark.parametrize("poison", POISONS)
def test_one_poisoned_sample_does_not_change_the_score_of_another(tmp_path: Path, poison: str) -> None:
    """As in CVE-2026-6878: a completion replaces the grader of the process that evaluates it."""
    texts = ["a", POISONS[poison], "ccc", "dddd", "ee"]
    with RewardHost(version_of(tmp_path, SOURCE), seed=0, workers=1) as host:
        assert host.functions[0].isolation == "call"
        rows = host.score([group(texts), group(["f", "gg"])], step=0, split="train")
    assert [row[0].value for i, row in enumerate(rows) if i != 1] == [1.0, 3.0, 4.0, 2.0, 1.0, 2.0]
    assert {row[0].outcome for i, row in enumerate(rows) if i != 1} == {Outcome.OK}


def test_without_isolation_a_poisoned_sample_reaches_others_so_the_two_differ(tmp_path: Path) -> None:
    version = version_of(tmp_path, SOURCE, isolation="worker")
    with RewardHost(version, seed=0, workers=1) as host:
        rows = host.score([group(["a", POISONS["grader"], "ccc"])], step=0, split="train")
    assert rows[2][0].value == 999.0


@pytest.mark.parametrize(
    ("line", "isolation"),
    [
        ("import re\nPATTERN = re.compile('a')", "worker"),
        ("import json, ast, math", "worker"),
        ("def f(model):\n    model.eval()", "worker"),
        ("def f(x):\n    return eval(x)", "call"),
        ("def f(x):\n    exec(x)", "call"),
        ("import pickle", "call"),
        ("import os\ndef f(x):\n    os.system(x)", "call"),
        ("import subprocess as s", "call"),
        ("def f(x):\n    from sympy.parsing.sympy_parser import parse_expr", "call"),
        ("def f(sympy, x):\n    sympy.sympify(x)", "call"),
        ("__import__('os')", "call"),
    ],
)
def test_auto_isolates_what_turns_text_into_code(tmp_path: Path, line: str, isolation: str) -> None:
    bundle = bundle_of(tmp_path, f"{line}\ndef score(prompt, completion, example):\n    return 1\n")
    assert bundle.functions[0].isolation == isolation


def test_auto_looks_into_the_modules_that_a_reward_imports(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("def value(text):\n    return eval(text)\n")
    source = "import helper\ndef score(p, c, e):\n    return helper.value(c)\n"
    assert bundle_of(tmp_path, source).functions[0].isolation == "call"
    assert bundle_of(tmp_path, source, isolation="worker").functions[0].isolation == "worker"


def test_a_death_in_isolation_costs_no_worker(tmp_path: Path) -> None:
    source = """
    import os
    worker = {}
    def score(prompt, completion, example):
        if completion == "x":
            os._exit(3)
        return os.getppid()
    """
    with RewardHost(version_of(tmp_path, source, isolation="call"), seed=0, workers=1) as host:
        rows = host.score([group("axbxc")], step=0, split="train")
    assert [row[0].error for row in rows] == [None, "the worker process exited with status 3"] * 2 + [None]
    assert len({row[0].value for row in rows[::2]}) == 1
