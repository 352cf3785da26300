"""Reward functions written for other trainers run unchanged, and score as they do when called directly."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from runner.rewards.bundle import build, columns_read, with_function, write
from runner.rewards.contract import GroupCall, Score
from runner.rewards.host import RewardHost
from runner.rewards.inprocess import score_here
from runner.spec.errors import JobError
from runner.spec.model import Reward

# Functions as people publish them for TRL: batch in, batch out.
TRL_FUNCTIONS = '''
import math
import re


def accuracy(completions, answer, **kwargs):
    """String prompts: completions are strings."""
    found = [re.findall(r"\\d+", text) for text in completions]
    return [1.0 if numbers and numbers[-1] == str(a) else 0.0 for numbers, a in zip(found, answer)]


def xmlcount(completions, **kwargs):
    contents = [completion[0]["content"] for completion in completions]
    def count(text):
        value = 0.0
        if text.count("<think>\\n") == 1:
            value += 0.125
        if text.count("</think>") == 1:
            value += 0.125
        value -= len(text.split("</think>")[-1]) * 0.001
        return value
    return [count(content) for content in contents]


def last_user(prompts, completions, **kwargs):
    return [float(len(prompt[-1]["content"]) + len(c[0]["content"])) / 7 for prompt, c in zip(prompts, completions)]


def soft_overlong(completion_ids, **kwargs):
    return [min(0.0, (20 - len(ids)) / 3) for ids in completion_ids]


def maybe(completions, **kwargs):
    return [None if "skip" in text else float("nan") if "nan" in text else 0.1 + 0.2 for text in completions]


def in_words(completions, log_extra=None, log_metric=None, trainer_state=None, **kwargs):
    log_extra("length", [len(text) for text in completions])
    log_metric("mean_length", sum(map(len, completions)) / len(completions))
    return [trainer_state.global_step for _ in completions]


async def judged(completions, **kwargs):
    import asyncio
    await asyncio.sleep(0)
    return [len(text) / 3 for text in completions]


def against_the_group(completions, **kwargs):
    mean = sum(map(len, completions)) / len(completions)
    return [len(text) - mean for text in completions]
'''

TEXTS = ["<think>\nsix</think> 42", "no", "<think>\n a lot of words</think>41 and more", "the answer is 42"]
IDS = [[1, 2, 3, 4], [5] * 22, [7, 7, 7, 7, 7], [1, 2, 1, 2, 1, 2]]
MESSAGES = [{"role": "system", "content": "Think."}, {"role": "user", "content": "6 · 7?"}]


def call(texts: Sequence[str] = TEXTS, *, chat: bool = False, ids: bool = True, **columns: Any) -> GroupCall:
    return GroupCall(
        prompt="6 · 7?",
        example={"prompt": "6 · 7?", "answer": 42, **columns},
        completions=texts,
        messages=MESSAGES if chat else None,
        tokens=IDS[: len(texts)] if ids else [len(tokens) for tokens in IDS[: len(texts)]],
    )


def scored(folder: Path, source: str, group: GroupCall, step: int = 1, **rewards: Reward) -> dict[str, list[Score]]:
    (folder / "rewards.py").write_text(dedent(source))
    version = write(build(rewards, folder), folder / "versions")
    with RewardHost(version, seed=0) as host:
        rows = host.score([group], step=step, split="train")
    return {name: [row[i] for row in rows] for i, name in enumerate(rewards)}


def values(folder: Path, function: str, group: GroupCall, source: str = TRL_FUNCTIONS, **options: Any) -> list[Any]:
    scores = scored(folder, source, group, f=Reward(fn=f"rewards.py:{function}", **{"style": "trl", **options}))
    return [score.value for score in scores["f"]]


def module(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("directly", folder / "rewards.py")
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_trl_functions_on_plain_prompts_score_as_called_directly(tmp_path: Path) -> None:
    found = values(tmp_path, "accuracy", call())
    assert found == module(tmp_path).accuracy(TEXTS, answer=[42] * 4)
    assert found == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("batch", ["one", "group"])
def test_trl_functions_on_chat_prompts_get_messages(tmp_path: Path, batch: str) -> None:
    chat = [[{"role": "assistant", "content": text}] for text in TEXTS]
    for name in ("xmlcount", "last_user"):
        found = values(tmp_path, name, call(chat=True), batch=batch)
        assert found == getattr(module(tmp_path), name)(prompts=[MESSAGES] * 4, completions=chat)


@pytest.mark.trl
def test_trls_own_rewards_score_as_called_directly(tmp_path: Path) -> None:
    source = """
    from trl.rewards import get_repetition_penalty_reward, get_soft_overlong_punishment, think_format_reward
    overlong = get_soft_overlong_punishment(max_completion_len=20, soft_punish_cache=16)
    repetition = get_repetition_penalty_reward(ngram_size=2)
    """
    names = {"think": "think_format_reward", "overlong": "overlong", "repetition": "repetition"}
    rewards = {name: Reward(fn=f"rewards.py:{fn}", style="trl") for name, fn in names.items()}
    found = scored(tmp_path, source, call(chat=True), **rewards)
    there = module(tmp_path)
    chat = [[{"role": "assistant", "content": text}] for text in TEXTS]
    assert [score.value for score in found["think"]] == there.think_format_reward(chat) == [1.0, 0.0, 1.0, 0.0]
    assert [score.value for score in found["overlong"]] == there.overlong(completion_ids=IDS)
    assert [score.value for score in found["repetition"]] == there.repetition(completion_ids=IDS)
    assert len({score.value for score in found["repetition"]}) == 4


def test_lengths_are_known_where_token_ids_are_not_and_ids_are_an_error_there(tmp_path: Path) -> None:
    assert values(tmp_path, "soft_overlong", call(ids=False)) == [0.0, (20 - 22) / 3, 0.0, 0.0]
    source = "def ids(completion_ids, **kwargs):\n    return [ids[0] for ids in completion_ids]\n"
    scores = scored(tmp_path, source, call(ids=False), f=Reward(fn="rewards.py:ids", style="trl"))["f"]
    assert [score.outcome for score in scores] == ["exception"] * 4
    assert "token ids of this completion are not recorded" in (scores[0].error or "")
    assert values(tmp_path, "ids", call(), source) == [1, 5, 7, 1]


def test_none_and_nan_in_the_list_mean_does_not_apply(tmp_path: Path) -> None:
    scores = scored(
        tmp_path, TRL_FUNCTIONS, call(["a", "skip", "nan"]), f=Reward(fn="rewards.py:maybe", style="trl")
    )["f"]  # fmt: skip
    assert [(score.value, score.outcome) for score in scores] == [(0.1 + 0.2, "ok"), (None, "none"), (None, "none")]


def test_extra_columns_are_the_reason_and_the_step_is_trls(tmp_path: Path) -> None:
    for batch in ("one", "group"):
        reward = Reward(fn="rewards.py:in_words", style="trl", batch=batch)
        scores = scored(tmp_path, TRL_FUNCTIONS, call(["ab", "abc"]), step=5, f=reward)["f"]
        assert [(score.value, score.reason) for score in scores] == [(4.0, "length: 2"), (4.0, "length: 3")]


@pytest.mark.parametrize("batch", ["one", "group"])
def test_async_functions_are_awaited(tmp_path: Path, batch: str) -> None:
    assert values(tmp_path, "judged", call(), batch=batch) == [len(text) / 3 for text in TEXTS]


def test_a_group_function_sees_its_whole_group_once(tmp_path: Path) -> None:
    source = (
        TRL_FUNCTIONS
        + "\n\ndef calls(completions, **kwargs):\n    print('called')\n    return [1.0] * len(completions)\n"
    )
    rewards = {
        "mean": Reward(fn="rewards.py:against_the_group", style="trl", batch="group"),
        "calls": Reward(fn="rewards.py:calls", style="trl", batch="group"),
        "accuracy": Reward(fn="rewards.py:accuracy", style="trl"),
    }
    found = scored(tmp_path, source, call(), **rewards)
    mean = sum(map(len, TEXTS)) / 4
    assert [score.value for score in found["mean"]] == [len(text) - mean for text in TEXTS]
    assert [score.output for score in found["calls"]].count("called\n") == 1
    assert [score.value for score in found["accuracy"]] == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("body", "outcome", "text"),
    [
        ("raise ValueError('bad batch')", "exception", "ValueError: bad batch"),
        ("return [1.0]", "exception", "returned 1 rewards for 4 completions"),
        ("import time; time.sleep(60)", "timeout", "no result after 0.3 s"),
        ("import os; os._exit(3)", "killed", "exited with status 3"),
    ],
)
def test_a_group_shares_its_calls_fate(tmp_path: Path, body: str, outcome: str, text: str) -> None:
    source = f"def f(completions, **kwargs):\n    {body}\ndef g(prompt, completion, example):\n    return 1\n"
    reward = Reward(fn="rewards.py:f", style="trl", batch="group", timeout=0.3)
    found = scored(tmp_path, source, call(), f=reward, g=Reward(fn="rewards.py:g"))
    assert [score.outcome for score in found["f"]] == [outcome] * 4
    assert all(text in (score.error or "") for score in found["f"])
    assert [score.value for score in found["g"]] == [1.0] * 4


def test_random_numbers_of_a_group_function_do_not_depend_on_who_runs_it(tmp_path: Path) -> None:
    source = "import random\ndef f(completions, **kwargs):\n    return [random.random() for _ in completions]\n"
    first, second = (values(tmp_path, "f", call(), source, batch="group") for _ in range(2))
    assert first == second and len(set(first)) == 4


def test_predibase_functions_get_texts_and_count_as_zero_what_is_no_number(tmp_path: Path) -> None:
    source = """
    def strings(prompt, completion, example):
        return float(all(type(value) is str for value in example.values()))
    def nums(prompt, completion, example):
        import ast
        return sum(ast.literal_eval(example["nums"])) + float(example["target"])
    def forgets(prompt, completion, example):
        1.0
    def words(prompt, completion, example):
        return "1.0"
    def fails(prompt, completion, example):
        return 1 / 0
    """
    rewards = {
        name: Reward.model_validate({"fn": f"rewards.py:{name}", "style": "predibase"})
        for name in ("strings", "nums", "forgets", "words", "fails")
    }
    found = scored(tmp_path, source, call(["x"], nums=[1, 2], target=9.5, empty=None), **rewards)
    told = {name: (score.value, str(score.outcome)) for name, (score,) in found.items()}
    assert told == {
        "strings": (1.0, "ok"),
        "nums": (12.5, "ok"),
        "forgets": (0.0, "non_numeric"),
        "words": (0.0, "non_numeric"),
        "fails": (0.0, "exception"),
    }
    assert found["forgets"][0].reason == "returned None, which counts as 0"


VERL = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    if data_source != "openai/gsm8k":
        raise NotImplementedError(data_source)
    return {"score": float(solution_str.endswith(ground_truth)), "acc": True, "index": extra_info["index"]}
"""


def test_verl_functions_get_verls_columns(tmp_path: Path) -> None:
    columns = {
        "data_source": "openai/gsm8k",
        "reward_model": {"style": "rule", "ground_truth": "42"},
        "extra_info": {"index": 3},
    }
    assert values(tmp_path, "compute_score", call(**columns), VERL, style="verl") == [1.0, 0.0, 0.0, 1.0]
    flat = {**columns, "ground_truth": "no"}
    assert values(tmp_path, "compute_score", call(**flat), VERL, style="verl") == [0.0, 1.0, 0.0, 0.0]
    scores = scored(tmp_path, VERL, call(), f=Reward(fn="rewards.py:compute_score", style="verl"))["f"]
    assert "neither a column `ground_truth` nor `reward_model`" in (scores[0].error or "")


def test_all_styles_give_the_same_in_this_process(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(TRL_FUNCTIONS)
    bundle = build(
        {
            "accuracy": Reward(fn="rewards.py:accuracy", style="trl"),
            "mean": Reward(fn="rewards.py:against_the_group", style="trl", batch="group"),
        },
        tmp_path,
    )
    rows = score_here(bundle, tmp_path, [call()])
    mean = sum(map(len, TEXTS)) / 4
    assert [[score.value for score in row] for row in rows] == [
        [accurate, len(text) - mean] for accurate, text in zip([1.0, 0.0, 0.0, 1.0], TEXTS, strict=True)
    ]


@pytest.mark.parametrize(
    ("style", "source", "message", "hint"),
    [
        ("trl", "def f(completions): return [1]", "f takes no **kwargs, and TRL passes every column by name", ""),
        ("trl", "def f(prompt, completion, example): return 1", "f needs `prompt`, which TRL does not pass",
         "style: runner"),
        ("trl", "def f(completions, /, **kwargs): return [1]", "takes completions by position only", ""),
        ("verl", "def f(data_source, solution_str, reference): return 1", "f needs `reference`", ""),
        ("verl", "def f(solution_str, ground_truth): return 1", "takes no **kwargs", ""),
        ("runner", "def f(completions, **kwargs): return [1]", "f takes 1 parameter (completions)", "style: trl"),
        ("predibase", "def f(completion): return 1", "f takes 1 parameter", "def f(prompt, completion, example)"),
    ],
)  # fmt: skip
def test_a_function_that_the_style_could_not_call_is_refused_unrun(
    tmp_path: Path, style: Any, source: str, message: str, hint: str
) -> None:
    (tmp_path / "rewards.py").write_text(source)
    with pytest.raises(JobError) as refused:
        build({"f": Reward(fn="rewards.py:f", style=style)}, tmp_path)
    (finding,) = refused.value.findings
    assert message in finding.message and hint in finding.hint
    assert finding.line == 1


def test_columns_of_trl_functions_are_their_parameters(tmp_path: Path) -> None:
    source = (
        "def f(completions, answer, level=1, **kwargs):\n    return [kwargs['topic'], kwargs.get('trainer_state')]\n"
    )
    (tmp_path / "rewards.py").write_text(source)
    reads = columns_read(build({"f": Reward(fn="rewards.py:f", style="trl")}, tmp_path))
    assert [(read.column, read.line, read.certain) for read in reads] == [
        ("answer", 1, True), ("level", 1, False), ("topic", 2, True),
    ]  # fmt: skip


def test_the_style_is_part_of_the_version(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text("def f(prompt, completion, example=None, **kwargs):\n    return 1.0\n")
    one, other = (
        build({"f": Reward(fn="rewards.py:f", style=style)}, tmp_path) for style in ("runner", "predibase")
    )  # fmt: skip
    assert one.sha256 != other.sha256
    assert sorted(other.sources) == ["_predibase_one_rewards_f.py", "_runner_predibase.py", "rewards.py"]


def test_a_slow_call_for_a_whole_group_is_not_made_again_for_an_idle_worker(tmp_path: Path) -> None:
    source = """
    import time
    def slow(completions, **kwargs):
        time.sleep(0.4)
        print("called")
        return [float(len(text)) for text in completions]
    """
    scores = scored(tmp_path, source, call(), f=Reward(fn="rewards.py:slow", style="trl", batch="group"))["f"]
    assert [score.value for score in scores] == [float(len(text)) for text in TEXTS]
    assert [score.output for score in scores] == ["called\n", None, None, None]


def test_a_function_put_in_place_of_another_is_called_in_its_style_and_leaves_the_rest(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(TRL_FUNCTIONS)
    rewards = {
        "f": Reward(fn="rewards.py:judged", style="trl"),
        "rest": Reward(fn="rewards.py:against_the_group", style="trl", batch="group"),
        "graded": Reward(
            grader={"type": "string_check", "name": "x", "input": "{{sample.output_text}}", "reference": "no",
                    "operation": "eq"}
        ),
    }  # fmt: skip
    base = build(rewards, tmp_path)
    folder = write(base, tmp_path / "versions")
    source = "def one(completions, **kwargs):\n    return [1.0 for _ in completions]\n"
    version = write(with_function(base, folder, "f", source, "one", None), tmp_path / "versions")
    with RewardHost(version, seed=0) as host:
        rows = host.score([call(["no", "four"])], step=1, split="train")
    assert [[score.value for score in row] for row in rows] == [[1.0, -1.0, 1.0], [1.0, 1.0, 0.0]]
