"""Functions of a notebook, a script or a module, written out as a `rewards.py` that runs by itself."""

from __future__ import annotations

import ast
import functools
import linecache
import math
import operator
import re
import subprocess
import sys
import textwrap
from collections import OrderedDict
from collections.abc import Callable
from math import sqrt as root
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.rewards.capture import CaptureError, capture
from runner.rewards.literal import Unwritable, literal

cells = 0


def notebook(*sources: str, **names: Any) -> dict[str, Any]:
    """The namespace after running the cells, in the way a notebook does it: source in linecache, code in __main__."""
    global cells
    namespace: dict[str, Any] = {"__name__": "__main__", **names}
    for source in map(textwrap.dedent, sources):
        cells += 1
        file = f"<ipython-input-{cells}-0123abcd>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        exec(compile(source, file, "exec"), namespace)
    return namespace


def elsewhere(source: str, expression: str) -> str:
    """What the expression gives in a fresh process that has nothing but the written file."""
    code = f"import sys, types\nmodule = sys.modules['rewards'] = types.ModuleType('rewards')\n\
exec(sys.stdin.read(), vars(module))\nprint(eval({expression!r}, vars(module)))"
    done = subprocess.run([sys.executable, "-c", code], input=source, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def refusals(function: Any, **others: Any) -> list[str]:
    with pytest.raises(CaptureError) as caught:
        capture({"r": function, **others})
    return list(caught.value.problems)


def in_cell(body: str, **names: Any) -> list[str]:
    """Why a notebook's function `r` is refused."""
    return refusals(notebook(body, **names)["r"])


# What comes along


def test_a_function_comes_with_everything_it_uses_and_nothing_else() -> None:
    space = notebook(
        """
        import re
        import numpy as np
        from math import sqrt as root
        ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
        UNUSED = object()
        LIMIT = 10
        """,
        """
        def answer(text):
            found = ANSWER.search(text)
            return found[1] if found else ""

        def equation(prompt, completion, example):
            # graded
            return root(min(len(answer(completion)), LIMIT))
        """,
    )
    assert capture({"equation": space["equation"]}) == textwrap.dedent('''\
        """Reward functions, written out from the Python functions that the job was made with."""

        import re
        from math import sqrt as root

        ANSWER = re.compile('<answer>(.*?)</answer>', re.DOTALL)
        LIMIT = 10


        def answer(text):
            found = ANSWER.search(text)
            return found[1] if found else ""


        def equation(prompt, completion, example):
            # graded
            return root(min(len(answer(completion)), LIMIT))
        ''')


def test_classes_decorators_aliases_and_annotations_come_along_and_run_in_another_process() -> None:
    space = notebook(
        """
        import ast, functools, operator
        import xml.etree.ElementTree
        from dataclasses import dataclass
        from enum import Enum
        from typing import Any

        class Color(Enum):
            RED = 2

        @dataclass
        class Parsed:
            value: float
            rest: "Any" = None

        OPERATORS = {ast.Add: operator.add, "own": len}
        """,
        """
        def logged(function):
            @functools.wraps(function)
            def inner(*arguments):
                return function(*arguments)
            return inner

        def parse(text: str) -> Parsed:
            return Parsed(float(text))

        read = parse
        HANDLERS = [parse]

        @functools.lru_cache
        def cached(x): return x

        @logged
        async def equation(prompt: str, completion: str, example: dict[str, Any], scale=Color.RED.value) -> float:
            node = xml.etree.ElementTree.fromstring("<a>4</a>")
            total = OPERATORS[ast.Add](read(completion).value, float(node.text))
            return cached(total) * scale + len(HANDLERS)
        """,
    )
    source = capture({"equation": space["equation"]})
    assert "import xml.etree.ElementTree\n" in source
    call = "__import__('asyncio').run(equation('', '3', {}))"
    assert elsewhere(source, call) == "15.0"


def test_the_text_is_the_same_every_time() -> None:
    cell = """
    WORDS = {"pear", "apple", "plum"}
    def b(p, c, e): return a(c)
    def a(c): return len(WORDS)
    """
    texts = {capture({"b": notebook(cell)["b"]}) for _ in range(3)}
    assert len(texts) == 1
    assert "WORDS = {'apple', 'pear', 'plum'}" in texts.pop()


def helper_of_this_module(completion: str) -> int:
    return len(completion) * FACTOR


FACTOR = 2


def reward_of_this_module(prompt: str, completion: str, example: dict[str, Any]) -> float:
    """Uses this module's names."""
    return helper_of_this_module(completion) + math.floor(root(16))


def test_a_function_of_a_file_of_ones_own_comes_with_its_helpers() -> None:
    source = capture({"length": reward_of_this_module})
    assert elsewhere(source, "reward_of_this_module('', 'abc', {})") == "10"


def test_a_nested_function_that_needs_nothing_around_it_is_taken_out() -> None:
    def inner(prompt: str, completion: str, example: dict[str, Any]) -> int:
        """Of two

        lines."""
        return len(completion)

    assert elsewhere(capture({"r": inner}), "inner('', 'abc', {})") == "3"


def test_a_function_of_an_installed_package_stays_an_import() -> None:
    source = capture({"r": notebook("def r(p, c, e): return add(1, 2)", add=operator.add)["r"]})
    assert "from operator import add\n" in source
    source = capture({"r": notebook("def r(p, c, e): return Order()", Order=OrderedDict)["r"]})
    assert "from collections import OrderedDict as Order\n" in source


def test_one_function_may_be_two_rewards() -> None:
    assert capture({"a": reward_of_this_module, "b": reward_of_this_module}).count("def reward_of_this_module") == 1


def test_functions_that_call_each_other_come_together() -> None:
    source = capture({"r": notebook("def r(p, c, e): return odd(4)\ndef odd(n): return n and even(n - 1)\n"
                                    "def even(n): return n == 0 or odd(n - 1)\n")["r"]})  # fmt: skip
    assert elsewhere(source, "r('', '', {})") == "0"


def test_setup_fills_globals_that_could_not_be_written() -> None:
    space = notebook(
        """
        WORDS = None
        def load():
            global WORDS
            WORDS = frozenset(["abc"])
        def known(prompt, completion, example):
            return float(completion in WORDS)
        """
    )
    space["WORDS"] = object()  # as after a trial in the notebook
    source = capture({"known": space["known"]}, setup=space["load"])
    assert elsewhere(source, "[setup(), known('', 'abc', {}), known('', 'x', {})]") == "[None, 1.0, 0.0]"


def test_names_of_annotations_alone_are_left_out_where_they_cannot_be_written() -> None:
    cell = "def r(prompt, completion, example: Row) -> Score: return 1.0"
    source = capture({"r": notebook(cell, Row=dict[str, int], Score=float)["r"]})
    assert source.splitlines()[2:5] == ["from __future__ import annotations", "", "from builtins import float as Score"]
    assert elsewhere(source, "r('', '', {})") == "1.0"


# What is refused


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("r = lambda p, c, e: 1", "r: is a lambda; write it as a `def`"),
        ("r = len", "r: is written in C; write a `def` that calls it"),
        ("r = 'text'", "r: is no function but 'text'; give a function"),
        ("class r:\n    pass", "r: is a class; write a function"),
        ("from functools import partial\nr = partial(max, 1)",
         "r: is a functools.partial; write a `def` that makes the call"),
        ("class C:\n    def m(self, p, c, e): return 1\nr = C().m",
         "r: is a method of an object (C); write a function at the top level"),
        ("class C:\n    def __call__(self, p, c, e): return 1\nr = C()",
         "r: is an object that can be called (C); write a `def` that calls it"),
        ("def make(k):\n    def r(p, c, e): return k\n    return r\nr = make(3)",
         "r: uses `k` of the function it is defined in; define it, and what it uses, at the top level; "
         "a decorator needs functools.wraps"),
        ("def r(p, c, e):\n    yield 1", "r: is a generator; return one number instead of yielding"),
        ("async def r(p, c, e):\n    yield 1", "r: is a generator; return one number instead of yielding"),
        ("def r(p, c): return 1",
         "r: takes 2 parameters (p, c); a reward is `def r(prompt, completion, example)`, with an optional keyword "
         "`ctx`"),
        ("def r(p, c, e): return missing(c)", "r: uses `missing`, which is not defined; define or import it first"),
        ("def r(p, c, e): display(c)", "r: uses `display`, which exists only in a notebook; use print"),
        ("import io\ndef r(p, c, e): return FILE.read()\nFILE = io.StringIO()",
         "r: uses `FILE`, a StringIO, which can't be written into a file; load it inside the function, or in a "
         "`setup` function"),
        ("short = lambda t: t\ndef r(p, c, e): return short(c)",
         "r: uses `short`, which is a lambda; write it as a `def`"),
        ("BIG = 'x' * 300_000\ndef r(p, c, e): return BIG",
         "r: uses `BIG`, a str of 292 KiB, which can't be written into a file; load it inside the function, or in a "
         "`setup` function"),
        ("LOOP = []\nLOOP.append(LOOP)\ndef r(p, c, e): return LOOP",
         "r: uses `LOOP`, a value that contains itself, which can't be written into a file; load it inside the "
         "function, or in a `setup` function"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused_with_the_way_out(body: str, message: str) -> None:
    assert in_cell(body) == [message]


def test_a_problem_in_a_helper_names_the_way_to_it() -> None:
    assert in_cell("def r(p, c, e): return help_me(c)\ndef help_me(t): return nowhere")[0].startswith(
        "r → help_me: uses `nowhere`, which is not defined"
    )


def test_a_dataframe_is_refused_by_its_type() -> None:
    pandas = pytest.importorskip("pandas")
    assert in_cell("def r(p, c, e): return len(df)", df=pandas.DataFrame()) == [
        "r: uses `df`, a DataFrame, which can't be written into a file; load it inside the function, or in a `setup` "
        "function"
    ]


def test_every_reason_is_told_at_once() -> None:
    assert len(refusals(lambda p, c, e: 1, second=len, third=notebook("def f(p): return 1")["f"])) == 2
    assert len(in_cell("def r(p, c, e): return a + b")) == 2


def test_two_functions_of_one_name_are_refused() -> None:
    first, second = (notebook("def f(p, c, e): return 1")["f"] for _ in range(2))
    assert refusals(first, second=second) == ["second: two different things are named `f`; rename one of them"]


def test_a_function_without_source_is_refused() -> None:
    space: dict[str, Any] = {}
    exec("def f(p, c, e): return 1", space)
    assert refusals(space["f"]) == ["r: `f`: its source is not available; define it in a file or a notebook cell"]


def test_a_module_of_ones_own_is_refused_with_the_import_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "graders_of_mine.py").write_text("LIMIT = 3\ndef grade(text): return min(len(text), LIMIT)\n")
    monkeypatch.syspath_prepend(tmp_path)
    whole = in_cell("import graders_of_mine as g\ndef r(p, c, e): return g.grade(c)")
    assert whole[0].startswith("r: uses `g`, a module of your own; `from graders_of_mine import …`")
    one = notebook("from graders_of_mine import grade\ndef r(p, c, e): return grade(c)")["r"]
    assert elsewhere(capture({"r": one}), "r('', 'abcde', {})") == "3"


def test_a_file_that_changed_after_its_import_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "grader_that_changes.py"
    file.write_text("def grade(prompt, completion, example):\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__("grader_that_changes")
    file.write_text("# a new line\ndef other(prompt, completion, example):\n    return 2\n")
    assert "its source has changed since it was defined" in refusals(module.grade)[0]


def test_a_nested_text_of_several_lines_is_not_silently_changed() -> None:
    def inner(prompt: str, completion: str, example: dict[str, Any]) -> bool:
        return (
            completion
            == """first
            second"""
        )

    assert "define it at the top level" in refusals(inner)[0]


def test_a_method_of_a_decorator_without_wraps_is_told_what_is_missing() -> None:
    cell = "def plain(f):\n    def inner(*a): return f(*a)\n    return inner\n@plain\ndef r(p, c, e): return 1"
    assert "a decorator needs functools.wraps" in in_cell(cell)[0]


def test_setup_is_called_without_anything() -> None:
    with pytest.raises(CaptureError, match="setup: takes path; it is called without anything"):
        capture({"r": reward_of_this_module}, setup=notebook("def load(path): pass")["load"])


# Values


def no_reference(value: object) -> str | None:
    return "re" if value is re else "Path" if value is Path else None


def written(value: object) -> Any:
    return eval(literal(value, no_reference), {"re": re, "Path": Path})


NUMBERS = st.integers() | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_a_plain_value_is_written_as_an_expression_that_equals_it(value: object) -> None:
    assert written(value) == value
    assert repr(written(value)) == repr(value)


def test_patterns_paths_sets_and_numbers_without_end_are_written() -> None:
    assert written(re.compile("a\nb", re.I | re.X)) == re.compile("a\nb", re.I | re.X)
    assert written(re.compile(b"a")) == re.compile(b"a")
    assert written([Path("/a/b"), {3, 1}, frozenset({"x"}), set(), (1,), math.inf, -math.inf]) == [
        Path("/a/b"), {1, 3}, {"x"}, set(), (1,), math.inf, -math.inf,
    ]  # fmt: skip
    assert math.isnan(written(math.nan))


def test_a_long_collection_is_written_one_item_a_line() -> None:
    text = literal({"words": ["some word"] * 12, "n": 1}, no_reference)
    assert max(map(len, text.splitlines())) < 30
    assert ast.literal_eval(text) == {"words": ["some word"] * 12, "n": 1}


@pytest.mark.parametrize("value", [object(), functools.partial(max), OrderedDict(a=1)])
def test_a_value_of_another_type_is_not_guessed(value: Callable[..., Any]) -> None:
    with pytest.raises(Unwritable, match=f"an? {type(value).__name__}"):
        literal(value, no_reference)
