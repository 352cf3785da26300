"""OpenAI's grader JSON in place of a function."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from runner.rewards.bundle import build, columns_read, write
from runner.rewards.contract import GroupCall, Score
from runner.rewards.host import RewardHost
from runner.rewards.inprocess import score_here
from runner.spec.errors import JobError
from runner.spec.load import load
from runner.spec.model import Reward

EXAMPLE = {"answer": "42", "level": 3, "tags": ["a", "b"], "nested": {"deep": "Yes"}}
CHECK = {"type": "string_check", "name": "n", "input": "{{ sample.output_text }}", "reference": "{{item.answer}}"}


def scores(folder: Path, texts: list[str], name: str = "g", **grader: Any) -> list[Score]:
    version = write(build({name: Reward(grader=grader)}, folder), folder / "versions")
    group = GroupCall(prompt="p", example=EXAMPLE, completions=texts)
    with RewardHost(version, seed=0) as host:
        return [row[0] for row in host.score([group], step=1, split="train")]


def values(folder: Path, texts: list[str], **grader: Any) -> list[float | None]:
    found = scores(folder, texts, **grader)
    assert [score.error for score in found] == [None] * len(texts)
    return [score.value for score in found]


@pytest.mark.parametrize(
    ("operation", "reference", "expected"),
    [
        ("eq", "{{item.answer}}", [1.0, 0.0, 0.0]),
        ("ne", "{{item.answer}}", [0.0, 1.0, 1.0]),
        ("like", "is {{ item.answer }}", [0.0, 1.0, 0.0]),
        ("ilike", "is {{ item.answer }}", [0.0, 1.0, 1.0]),
    ],
)
def test_string_checks(tmp_path: Path, operation: str, reference: str, expected: list[float]) -> None:
    grader = {**CHECK, "operation": operation, "reference": reference}
    assert values(tmp_path, ["42", "it is 42", "IT IS 42!"], **grader) == expected


def test_templates_reach_into_rows_and_json_outputs(tmp_path: Path) -> None:
    row = "{{item.level}} {{ item.tags[1] }} {{item.nested.deep}} {{item.tags}}"
    check = {**CHECK, "operation": "eq", "input": row}
    assert values(tmp_path, ["x"], **{**check, "reference": '3 b Yes ["a", "b"]'}) == [1.0]
    output = {**CHECK, "operation": "eq", "input": "{{sample.output_json.result[0]}}", "reference": "42"}
    (good, bad) = scores(tmp_path, ['{"result": [42]}', "no JSON"], **output)
    assert good.value == 1.0
    assert "{{sample.output_json.result[0]}}: there is no `result`" in (bad.error or "")


PYTHON = """import re

def grade(sample, item):
    found = re.findall(r"\\d+", sample["output_text"])
    if not found:
        raise ValueError("no number")
    return 1.0 if found[-1] == item["answer"] else 0.25
"""


def test_python_graders_run_as_files_with_lines_of_their_own(tmp_path: Path) -> None:
    right, wrong, failed = scores(tmp_path, ["42", "41", "none"], type="python", source=PYTHON, image_tag="2025-05-08")
    assert (right.value, wrong.value, failed.outcome) == (1.0, 0.25, "exception")
    assert "_grader_g__source.py:6 in grade\n    raise ValueError" in (failed.error or "")


def test_multi_graders_combine_the_others_by_their_formula(tmp_path: Path) -> None:
    multi = {
        "type": "multi",
        "graders": {
            "exact": {**CHECK, "operation": "eq"},
            "close": {"type": "python", "source": PYTHON},
        },
        "calculate_output": "0.5 * exact + max(close, 0.1) / 2 - floor(0.5) + -0",
    }
    found = scores(tmp_path, ["42", "41"], **multi)
    assert [score.value for score in found] == [1.0, 0.125]
    assert found[1].reason == "exact 0, close 0.25"


class Judge(BaseHTTPRequestHandler):
    """A model that gives the number it was asked about, in the ways that models do."""

    asked: list[dict[str, Any]] = []  # noqa: RUF012

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({"path": self.path, **asked})
        text = asked["messages"][-1]["content"].removeprefix("Grade: ")
        answers = {"json": '{"reason": "fine", "result": 0.75}', "text": "I would say 0.5", "high": "7"}
        if text == "broken":
            self.send_error(503, "overloaded")
            return
        content = answers.get(text, "no idea")
        body = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def judge() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Judge)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_a_models_opinion_is_asked_for_and_kept_to_its_range(tmp_path: Path, judge: str) -> None:
    grader = {
        "type": "score_model",
        "model": "some/judge",
        "input": [
            {"role": "system", "content": "Be strict about {{item.answer}}."},
            {"role": "user", "content": {"type": "input_text", "text": "Grade: {{sample.output_text}}"}},
        ],
        "sampling_params": {"temperature": 0},
        "base_url": judge,
    }
    built = build({"g": Reward(grader=grader)}, tmp_path)
    group = GroupCall(prompt="p", example=EXAMPLE, completions=["json", "text", "high", "other", "broken"])
    found = [row[0] for row in score_here(built, tmp_path, [group])]
    assert [(score.value, score.reason) for score in found[:2]] == [(0.75, "fine"), (0.5, "I would say 0.5")]
    assert "the model gave 7.0, outside of its range [0, 1]" in (found[2].error or "")
    assert "has no number: 'no idea'" in (found[3].error or "")
    assert "answered 503" in (found[4].error or "")
    assert Judge.asked[0]["path"] == "/v1/chat/completions"
    assert (Judge.asked[0]["model"], Judge.asked[0]["temperature"]) == ("some/judge", 0)
    assert Judge.asked[0]["messages"][0]["content"] == "Be strict about 42."


def test_the_columns_of_templates_are_known(tmp_path: Path) -> None:
    grader = {**CHECK, "operation": "eq", "reference": "{{item.answer}} {{ item.level }} {{item.answer}}"}
    reads = columns_read(build({"g-1": Reward(grader=grader)}, tmp_path))
    assert [(read.column, read.file, read.certain) for read in reads] == [
        ("answer", "rewards.g-1.grader", True), ("level", "rewards.g-1.grader", True),
    ]  # fmt: skip


def test_names_that_are_no_modules_get_one_each(tmp_path: Path) -> None:
    grader = {**CHECK, "operation": "eq"}
    built = build({"a-b": Reward(grader=grader), "a.b": Reward(grader=grader), "a_b": Reward(grader=grader)}, tmp_path)
    assert len({function.file for function in built.functions}) == 3


JOB = """\
model: a/b
dataset: {path: d.jsonl}
rewards:
  g:
    grader: %s
"""


@pytest.mark.parametrize(
    ("grader", "field", "message", "hint"),
    [
        ("{type: text_similarity}", "type", "'text_similarity' is no type of grader that is known here", "`python`"),
        ("{type: sting_check}", "type", "is no type of grader", "did you mean `string_check`?"),
        ("{type: string_check, input: a, reference: b}", "operation", "is required", "string_check"),
        ("{type: string_check, input: a, reference: b, operation: lke}", "operation", "'lke' is not", "`like`"),
        ('{type: string_check, input: "{{answer}}", reference: b, operation: eq}', "input", "`{{ answer }}` is no",
         "{{ item.<column> }}"),
        ("{type: string_check, input: a, refrence: b, operation: eq}", "refrence", "no such field", "`reference`"),
        ('{type: python, source: "def grade(sample: pass"}', "source", "is no valid Python: line 1", "def grade"),
        ('{type: python, source: "def f(sample, item): pass"}', "source", "defines no function `grade`", ""),
        ('{type: score_model, model: m, input: [{role: user, content: "a"}]}', "base_url", "is required", "v1"),
        ('{type: score_model, model: m, input: [hello], base_url: "http://h"}', "input.0", "is no message", "role"),
        ("{type: multi, graders: {a: {type: python, source: 'def grade(s, i): return 1'}}, calculate_output: b + 1}",
         "calculate_output", "there is no grader named `b`", ""),
        ("{type: multi, graders: {a: {type: python, source: 'def grade(s, i): return 1'}}, calculate_output: open(a)}",
         "calculate_output", "`open(a)` can't stand in a formula", "min"),
        ("{type: multi, graders: {a: {type: multi}}, calculate_output: a}", "graders.a.type", "'multi' is no type", ""),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_grader_is_said_at_its_place(
    tmp_path: Path, grader: str, field: str, message: str, hint: str
) -> None:
    (tmp_path / "job.yaml").write_text(JOB % grader)
    with pytest.raises(JobError) as refused:
        load(tmp_path / "job.yaml")
    found = next(item for item in refused.value.findings if item.field == f"rewards.g.grader.{field}")
    assert message in found.message and hint in found.hint and found.line == 5


def test_a_reward_is_a_function_or_a_grader(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB.replace("    grader: %s", "    weight: 1"))
    with pytest.raises(JobError) as refused:
        load(tmp_path / "job.yaml")
    assert refused.value.findings[0].hint == "for example `fn: rewards.py:correct`"
    both = "{type: python, source: 'def grade(s, i): return 1'}\n    fn: r.py:f"
    (tmp_path / "job.yaml").write_text(JOB % both)
    with pytest.raises(JobError, match="stands in place of `fn`"):
        load(tmp_path / "job.yaml")


def test_a_python_grader_that_executes_text_gets_a_process_for_each_call(tmp_path: Path) -> None:
    source = "def grade(sample, item):\n    return float(eval(sample['output_text']))\n"
    rewards = {"sum": Reward(grader={"type": "python", "name": "sum", "source": source})}
    assert [function.isolation for function in build(rewards, tmp_path).functions] == ["call"]
