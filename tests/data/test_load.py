"""A dataset becomes examples: prompts, turns, holdout, ids; and what is wrong is said before anything runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from runner.data.load import Data, check_columns, load_examples
from runner.data.template import Template
from runner.spec.errors import Finding, JobError
from runner.spec.model import JobSpec

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "train-2000.jsonl"
SUM = [{"nums": [3, 5, 2], "target": 17}, {"nums": [1, 2, 3], "target": 6}]


def job(path: str = "d.jsonl", **dataset: Any) -> JobSpec:
    return JobSpec.model_validate(
        {"model": "m", "dataset": {"path": path, **dataset}, "rewards": {"r": {"fn": "rewards.py:f"}}}
    )


def load(folder: Path, rows: list[dict[str, Any]], **dataset: Any) -> Data:
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_examples(job(**dataset), folder)


def refused(folder: Path, rows: list[dict[str, Any]], **dataset: Any) -> tuple[Finding, ...]:
    with pytest.raises(JobError) as caught:
        load(folder, rows, **dataset)
    return caught.value.findings


def test_a_template_writes_values_as_python_does(tmp_path: Path) -> None:
    data = load(tmp_path, SUM, prompt="Using {nums}, make {target}. {{x}}")
    assert [example.prompt for example in data.train] == [
        "Using [3, 5, 2], make 17. {x}",
        "Using [1, 2, 3], make 6. {x}",
    ]
    assert [example.id for example in data.train] == [0, 1]
    assert data.train[0].columns == SUM[0]
    assert (data.rows, data.columns, data.warnings, data.eval) == (2, ("nums", "target"), (), ())


@pytest.mark.parametrize(
    ("template", "message", "hint"),
    [
        ("{num}", "{num}: there is no column `num`", "did you mean `{nums}`?"),
        ("{nums.__class__}", "{nums.__class__}: there is no column `nums.__class__`", None),
        ("{nums[0]}", "{nums[0]}: there is no column `nums[0]`", "did you mean `{nums}`?"),
        ("{target!r}", "{target!r}: there is no column `target!r`", "did you mean `{target}`?"),
        ("\\boxed{}", "{}: there is no column ``", "columns: nums, target; write `{{` and `}}` for braces in the text"),
        ("{nums", "a single brace", "write `{{` or `}}` for a brace in the text"),
        ("{nums}}", "a single brace", "write `{{` or `}}` for a brace in the text"),
    ],
)
def test_a_template_reaches_columns_and_nothing_else(
    tmp_path: Path, template: str, message: str, hint: str | None
) -> None:
    (found,) = refused(tmp_path, SUM, prompt=template)
    assert (found.field, found.message) == ("dataset.prompt", message)
    assert hint is None or found.hint == hint


def test_a_column_named_like_an_attribute_is_a_column() -> None:
    assert Template("{a.b}").render({"a.b": 1}) == "1"


def test_a_row_that_lacks_a_column_of_the_template_is_named(tmp_path: Path) -> None:
    found = refused(tmp_path, [*SUM, {"nums": [1], "target": None}, {"nums": [1]}], prompt="{nums} {target}")
    assert [(item.line, item.message) for item in found] == [
        (3, "column `target` is missing or null"),
        (4, "column `target` is missing or null"),
    ]
    assert found[0].file == str(tmp_path / "d.jsonl")


def test_without_a_template_the_prompt_is_the_column_of_that_name(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}]
    data = load(tmp_path, [{"prompt": "as it stands {x}"}, {"prompt": turns}])
    assert [example.prompt for example in data.train] == ["as it stands {x}", turns]
    (found,) = refused(tmp_path, SUM)
    assert (found.message, found.hint) == (
        "there is no column named `prompt`",
        'give a template, as `prompt: "{nums}"`; columns: nums, target',
    )


@pytest.mark.parametrize(
    "prompt",
    ["", " \n", None, 5, [], [{"role": "user"}], [{"role": "user", "content": ["x"]}], ["hi"], {"role": "user"}],
)
def test_a_prompt_that_is_neither_text_nor_messages_is_refused_with_its_line(tmp_path: Path, prompt: Any) -> None:
    (found,) = refused(tmp_path, [{"prompt": "good"}, {"prompt": prompt}])
    assert (found.code, found.line) == ("prompt", 2)


def test_system_and_prefill_make_a_chat_of_a_text(tmp_path: Path) -> None:
    data = load(tmp_path, [{"prompt": "q"}], system="be brief", prefill="<think>")
    assert data.train[0].prompt == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "<think>"},
    ]
    assert load(tmp_path, [{"prompt": "q"}], format="chat").train[0].prompt == [{"role": "user", "content": "q"}]
    assert load(tmp_path, [{"prompt": "q"}], format="text").train[0].prompt == "q"


@pytest.mark.parametrize(
    ("turns", "dataset", "message"),
    [
        (["user"], {"format": "text"}, "the prompt is a list of messages, and `dataset.format` is `text`"),
        (["system", "user"], {"system": "s"}, "has a system message of its own"),
        (["user", "assistant"], {"prefill": "p"}, "already ends with an assistant turn"),
    ],
)
def test_turns_that_contradict_the_job_are_refused(
    tmp_path: Path, turns: list[str], dataset: dict[str, Any], message: str
) -> None:
    (found,) = refused(tmp_path, [{"prompt": [{"role": role, "content": "x"} for role in turns]}], **dataset)
    assert (found.line, found.message) == (1, message)


def test_the_holdout_depends_on_nothing_but_the_prompt(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {i}"} for i in range(1000)]
    held = {example.prompt for example in load(tmp_path, rows, holdout=0.2).eval}
    assert len(held) == 216
    fewer = {example.prompt for example in load(tmp_path, rows[500:], holdout=0.2).eval}
    assert fewer == {row["prompt"] for row in rows[500:]} & held
    shuffled = load(tmp_path, rows[::-1], holdout=0.2, system="new")
    assert {example.prompt[1]["content"] for example in shuffled.eval if isinstance(example.prompt, list)} == held
    assert held < {example.prompt for example in load(tmp_path, rows, holdout=0.4).eval}


def test_duplicates_of_a_prompt_stay_together_and_are_mentioned(tmp_path: Path) -> None:
    data = load(tmp_path, [{"prompt": f"q{i % 50}"} for i in range(100)], holdout=0.5)
    assert not {example.prompt for example in data.train} & {example.prompt for example in data.eval}
    assert [(item.code, item.severity, item.message) for item in data.warnings] == [
        ("duplicates", "warning", "50 of 100 prompts are repeats")
    ]


def test_a_split_column_decides(tmp_path: Path) -> None:
    words = ["train", "evaluation", "validation", "test", "train"]
    data = load(tmp_path, [{"prompt": f"q{i}", "split": word} for i, word in enumerate(words)], holdout=0.5)
    assert ([example.id for example in data.train], [example.id for example in data.eval]) == ([0, 4], [1, 2, 3])
    assert [item.message for item in data.warnings] == ["has no effect: the column `split` decides"]


def test_an_unknown_split_is_refused_and_a_leak_is_mentioned(tmp_path: Path) -> None:
    (found,) = refused(tmp_path, [{"prompt": "a", "split": "train"}, {"prompt": "b", "split": "algebra"}])
    assert (found.line, found.message) == (2, 'split is "algebra"')
    leaky = load(tmp_path, [{"prompt": "a", "split": "train"}, {"prompt": "a", "split": "test"}])
    assert "leak" in [item.code for item in leaky.warnings]


def test_nothing_to_train_on_is_an_error_and_an_empty_holdout_a_warning(tmp_path: Path) -> None:
    assert refused(tmp_path, [])[0].code == "empty"
    assert (
        refused(tmp_path, [{"prompt": "a", "split": "test"}])[0].message == "every row is held out: nothing to train on"
    )
    data = load(tmp_path, [{"prompt": "a"}], holdout=0.01)
    assert [item.message for item in data.warnings] == ["no prompt of 1 falls into a holdout of 0.01"]


def test_the_limit_keeps_the_first_rows(tmp_path: Path) -> None:
    data = load(tmp_path, [{"prompt": f"q{i}"} for i in range(10)], limit=3)
    assert ([example.prompt for example in data.train], data.rows) == (["q0", "q1", "q2"], 3)


def test_columns_that_rewards_read_are_checked_against_the_data() -> None:
    reads = [
        ("target", "rewards.py", 3, True),
        ("targt", "rewards.py", 4, True),
        ("hint", "rewards.py", 5, False),
    ]
    found = check_columns(reads, ("nums", "target"))
    assert [(item.line, item.severity, item.hint) for item in found] == [
        (4, "error", "did you mean `target`?"),
        (5, "warning", "columns: nums, target"),
    ]


def test_a_column_that_some_rows_lack_is_not_one_to_rely_on(tmp_path: Path) -> None:
    assert load(tmp_path, [{"prompt": "a", "x": 1}, {"prompt": "b"}]).columns == ("prompt",)


@pytest.mark.skipif(not GSM8K.exists(), reason="GSM8K is not here")
def test_gsm8k_is_read_split_and_templated() -> None:
    data = load_examples(job(str(GSM8K), prompt="{question}\n", holdout=0.1), GSM8K.parent)
    assert (data.rows, len(data.train) + len(data.eval), data.columns) == (2000, 2000, ("question", "answer"))
    assert 150 < len(data.eval) < 250
    assert str(data.train[0].prompt).endswith("?\n")
