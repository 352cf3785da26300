"""The Python API as a notebook uses it: jobs made of functions and rows, real runs on recorded completions."""

from __future__ import annotations

import datetime
import json
import os
import signal
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runner
from runner.draft import Sections, to_yaml
from runner.spec.document import parse
from runner.spec.model import JobSpec

ROWS = [{"prompt": f"{a} + {b} =", "sum": a + b} for a in range(4) for b in range(4)]
COMPLETIONS = [
    {"prompt": row["prompt"], "completions": [f"{row['sum']}", f"it is {row['sum']}", "no idea"]} for row in ROWS
]
GRPO = {"steps": 6, "prompts_per_step": 4, "num_generations": 4}
REPLAY = {"policy": "replay", "completions": COMPLETIONS, "learning_rate": 4.0}
SCALE = 2


def right(prompt: str, completion: str, example: dict[str, Any]) -> float:
    return worth(completion.endswith(str(example["sum"])))


def worth(good: bool) -> float:
    return good / SCALE


def length(prompt: str, completion: str, example: dict[str, Any]) -> int:
    return len(completion)


def slow(prompt: str, completion: str, example: dict[str, Any]) -> float:
    import time

    time.sleep(0.05)
    return float(len(completion))


def fails_on_ideas(prompt: str, completion: str, example: dict[str, Any]) -> float:
    if "idea" in completion:
        raise ValueError("no ideas, please")
    return 1.0


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, as a notebook's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNNER_HOME", raising=False)
    return tmp_path


def sums(name: str = "sums", **changes: Any) -> runner.Loaded:
    given: dict[str, Any] = {
        "model": "none/none", "dataset": ROWS, "rewards": {"right": right}, "grpo": GRPO, "emulator": REPLAY,
    }  # fmt: skip
    return runner.job(name, **{**given, **changes})


# Runs


def test_a_job_made_of_functions_and_rows_trains_and_is_followed_step_by_step(here: Path) -> None:
    job = sums(rewards={"right": right, "length": (length, 0)}, holdout=0.3, evaluation={"every": 3})
    run = runner.emulate(job, wait=False)
    progress = list(run.follow())
    assert [step.step for step in progress if step.metrics] == [1, 2, 3, 4, 5, 6]
    assert [step.step for step in progress if step.evaluation] == [0, 3, 6]
    assert {step.total for step in progress} == {6}
    assert [(step, value) for step, value in run.metrics("reward")] == [
        (step.step, step.metrics["reward"]) for step in progress if step.metrics
    ]
    assert str(progress[-1]).startswith("step 6/6  eval/reward ")
    assert (run.state, run.reason, run.detail) == ("succeeded", "finished", "step 6 of 6")
    assert repr(run) == "<run sums-1: succeeded>"
    assert run.folder == here / ".runner" / "runs" / "sums-1"


def test_completions_carry_prompts_scores_rewards_and_become_a_frame(here: Path) -> None:
    rewards = {"right": right, "length": (length, 0)}
    run = runner.emulate(sums(rewards=rewards, emulator={**REPLAY, "prompts_per_step": 16}))
    last = run.completions(step=6)
    assert len(last) == 64
    for row in last:
        assert row.prompt is not None and row.scores["length"].value == len(row.completion)
        assert row.reward == row.scores["right"].value
    (best,) = run.completions(order="best", limit=1)
    assert best.reward == 0.5
    pandas = pytest.importorskip("pandas")
    frame = run.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == 6 * 64
    assert {"step", "prompt", "completion", "rewards/right", "rewards/length", "reward", "advantage"} <= set(frame)


def test_failed_reward_calls_are_listed_with_their_lines(here: Path) -> None:
    grpo = {**GRPO, "steps": 2}
    rewards = {"right": right, "picky": runner.reward(fails_on_ideas, weight=0)}
    run = runner.emulate(sums(rewards=rewards, grpo=grpo))
    errors = run.errors()
    assert errors and {row.name for row in errors} == {"picky"}
    assert (errors[0].error or "").splitlines()[0] == "ValueError: no ideas, please"
    assert "rewards.py:" in (errors[0].error or "")
    assert len(run.errors(limit=1)) == 1


def test_a_run_is_stopped_resumed_and_cancelled(here: Path) -> None:
    job = sums(rewards={"slow": slow}, grpo={**GRPO, "steps": 50}, emulator={**REPLAY, "steps": 50})
    run = runner.emulate(job, wait=False)
    for step in run.follow():
        if step.step == 2:
            run.stop()
    assert (run.state, run.reason) == ("held", "stopped")
    reached = run.metrics("reward")[-1][0]
    assert 2 <= reached < 50
    run.resume(wait=False)
    for step in run.follow():
        if step.step > reached:
            run.cancel()
            break
    assert run.wait().state == "cancelled"
    assert [step for step, _ in run.metrics("reward")] == list(range(1, run.row.last_step + 1))
    with pytest.raises(runner.StoreError, match="final"):
        run.resume()


def test_ctrl_c_in_wait_stops_the_run_with_a_checkpoint(here: Path) -> None:
    job = sums(rewards={"slow": slow}, grpo={**GRPO, "steps": 50}, emulator={**REPLAY, "steps": 50})
    run = runner.emulate(job, wait=False)

    def interrupt() -> None:
        while not runner.open_run(run.id).metrics("reward"):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert run.wait().reason == "stopped"
    assert list((run.folder / "checkpoints").glob("step-*"))


def test_runs_are_found_again_by_job_and_id(here: Path) -> None:
    job = sums(grpo={**GRPO, "steps": 1})
    first = runner.emulate(job)
    second = runner.rerun(first.id)
    assert [row.id for row in runner.runs()] == ["sums-2", "sums-1"] == [second.id, first.id]
    assert runner.open_run("sums").id == "sums-2"
    assert runner.submit(job, home=str(here)).state == "queued"


def test_a_rewritten_job_is_what_the_next_run_scores_with(here: Path) -> None:
    grpo = {**GRPO, "steps": 1}
    runner.emulate(sums(grpo=grpo))
    again = runner.emulate(sums(grpo=grpo, rewards={"right": length}))
    assert {row.reward for row in again.completions()} == {float(len(row.completion)) for row in again.completions()}


def test_overrides_act_on_a_job_made_in_code(here: Path) -> None:
    run = runner.emulate(sums(), overrides=["emulator.steps=2"])
    assert [step for step, _ in run.metrics("reward")] == [1, 2]
    assert "emulator.steps=2" in str(runner.load_job(sums(), ["emulator.steps=2"]))


# The folder that a job is written into


def test_the_folder_is_one_that_a_person_could_have_written(here: Path) -> None:
    loaded = runner.job(
        "sums",
        model="Qwen/Qwen2.5-1.5B-Instruct",
        dataset={"path": ROWS, "prompt": "Solve:\n{prompt}"},
        rewards={"right": runner.reward(right, weight=2, trusted=True), "length": (length, 0)},
        holdout=0.25,
        limits={"max_duration": "2h"},
        grpo=runner.Grpo(steps=50, learning_rate=1e-6),
    )
    assert loaded.path == here / ".runner/drafts/sums/job.yaml"
    assert sorted(path.name for path in loaded.folder.iterdir()) == ["data.jsonl", "job.yaml", "rewards.py"]
    assert loaded.source.splitlines()[2:] == [
        "name: sums",
        "model: Qwen/Qwen2.5-1.5B-Instruct",
        "dataset:",
        "  path: data.jsonl",
        "  prompt: |-",
        "    Solve:",
        "    {prompt}",
        "  holdout: 0.25",
        "rewards:",
        "  right: {fn: 'rewards.py:right', weight: 2, trusted: true}",
        "  length: {fn: 'rewards.py:length', weight: 0}",
        "grpo: {steps: 50, learning_rate: 1.0e-06}",
        "limits: {max_duration: 2h}",
    ]
    assert (loaded.folder / "data.jsonl").read_text().splitlines()[0] == '{"prompt": "0 + 0 =", "sum": 0}'
    assert runner.validate(loaded).job.grpo.learning_rate == 1e-6


def test_an_error_has_the_line_of_the_written_file(here: Path) -> None:
    with pytest.raises(runner.JobError) as caught:
        sums(grpo={"steps": 50, "num_generation": 8})
    (finding,) = caught.value.findings
    assert (finding.field, finding.file) == ("grpo.num_generation", str(here / ".runner/drafts/sums/job.yaml"))
    assert Path(finding.file).read_text().splitlines()[finding.line - 1] == "grpo: {steps: 50, num_generation: 8}"
    assert "num_generations" in finding.hint


def test_functions_in_a_list_go_by_their_names(here: Path) -> None:
    assert list(sums(rewards=[right, length]).job.rewards) == ["right", "length"]


def test_a_function_that_cannot_be_written_leaves_the_old_draft_alone(here: Path) -> None:
    before = sums().source
    with pytest.raises(runner.CaptureError, match="bad: is a lambda"):
        sums(rewards={"bad": lambda p, c, e: 1.0})
    assert (here / ".runner/drafts/sums/job.yaml").read_text() == before


def test_files_that_somebody_else_wrote_are_never_replaced(here: Path) -> None:
    folder = here / "jobs" / "mine"
    folder.mkdir(parents=True)
    (folder / "rewards.py").write_text("def right(prompt, completion, example): return 1.0\n")
    with pytest.raises(runner.JobError, match=r"rewards\.py is there already, and runner.job\(\) did not write it"):
        sums(folder=folder)
    assert not (folder / "job.yaml").exists()
    loaded = sums(folder=folder, rewards={"right": "rewards.py:right"})
    assert runner.validate(loaded).rewards.functions[0].attribute == "right"
    assert (folder / "rewards.py").read_text().startswith("def right")
    (folder / "job.yaml").write_text("model: by/hand\n")
    with pytest.raises(runner.JobError, match=r"job\.yaml is there already"):
        sums(folder=folder, rewards={"right": "rewards.py:right"})


def test_what_an_earlier_draft_left_is_cleaned_up_and_nothing_else(here: Path) -> None:
    folder = sums().folder
    (folder / "notes.txt").write_text("mine")
    (here / "other.jsonl").write_text('{"prompt": "a", "sum": 1}\n')
    loaded = sums(dataset="other.jsonl")
    assert loaded.job.dataset.path == str(here / "other.jsonl")
    names = ["completions.jsonl", "job.yaml", "notes.txt", "rewards.py"]
    assert sorted(path.name for path in folder.iterdir()) == names


def test_a_lying_first_line_does_not_get_other_files_removed(here: Path) -> None:
    folder = sums().folder
    (folder / "rewards.py").unlink()
    (here / "precious").write_text("x")
    (folder / "job.yaml").write_text("# Written by runner.job() with: ../../../precious, rewards.py\nmodel: x\n")
    (folder / "data.jsonl").unlink()
    (folder / "completions.jsonl").unlink()
    sums()
    assert (here / "precious").read_text() == "x"


def test_a_reward_named_by_file_needs_a_folder(here: Path) -> None:
    with pytest.raises(runner.JobError, match="no folder of its own"):
        sums(rewards={"right": "rewards.py:right"})


def test_a_name_that_is_no_name_makes_no_folder(here: Path) -> None:
    for name in ("../up", "", "a b", ".hidden"):
        with pytest.raises(runner.JobError, match="is no name"):
            sums(name)
    assert list(here.iterdir()) == []


def test_a_frame_becomes_rows_of_plain_values(here: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"prompt": ["a", "b"], "n": [1, 2], "x": [0.5, float("nan")], "list": [[1], [2, 3]]})
    frame["day"] = pandas.to_datetime(["2024-01-02", None])
    loaded = sums(dataset=frame)
    rows = [json.loads(line) for line in (loaded.folder / "data.jsonl").read_text().splitlines()]
    assert rows == [
        {"prompt": "a", "n": 1, "x": 0.5, "list": [1], "day": "2024-01-02T00:00:00"},
        {"prompt": "b", "n": 2, "x": None, "list": [2, 3], "day": None},
    ]


def test_rows_hold_numbers_of_numpy_dates_and_decimals(here: Path) -> None:
    numpy = pytest.importorskip("numpy")
    row = {"prompt": "é", "i": numpy.int64(3), "a": numpy.arange(2), "d": datetime.date(2024, 1, 2)}
    loaded = sums(dataset=iter([{**row, "m": Decimal("1.5")}]))
    assert (loaded.folder / "data.jsonl").read_text() == (
        '{"prompt": "é", "i": 3, "a": [0, 1], "d": "2024-01-02", "m": 1.5}\n'
    )


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (3, "is of type int; give rows"),
        (["text"], "row 1 is 'text'"),
        ([{"prompt": "a"}, {"prompt": object()}], "row 2: no JSON: <object"),
        ([{"prompt": float("nan")}], "row 1: Out of range float values"),
        ([{"prompt": "\ud800"}], "row 1: .*surrogates not allowed"),
    ],
)
def test_rows_that_are_no_json_are_refused_with_their_number(here: Path, dataset: Any, message: str) -> None:
    with pytest.raises(runner.JobError, match=message):
        sums(dataset=dataset)


def test_a_value_that_no_job_can_hold_is_refused_with_its_field(here: Path) -> None:
    with pytest.raises(runner.JobError) as caught:
        sums(grpo={"steps": object()})
    assert caught.value.findings[0].field == "grpo.steps"


# What it is made of


def test_the_sections_that_editors_complete_are_the_jobs() -> None:
    own = {"name", "model", "dataset", "rewards"}
    assert set(Sections.__annotations__) == set(JobSpec.model_fields) - own


TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False) | TEXT
    | st.from_regex(r"[0-9oxeE.+\-~a-f ]{1,6}", fullmatch=True)
    | st.sampled_from(["on", "Null", "1e-6", "0o17", "0x1F", "- a", "a: b", "a #b", "<<", "=", "2001-01-01", "1:30"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(TEXT, PLAIN, max_size=4))
def test_what_is_written_as_yaml_is_read_back_as_it_was(content: dict[str, Any]) -> None:
    assert repr(parse(to_yaml(content), "job.yaml").value) == repr(content)


def trl_style(completions, sum, **kwargs):
    return [float(text.endswith(str(wanted))) for text, wanted in zip(completions, sum, strict=True)]


def test_a_job_made_in_python_can_have_functions_of_other_styles_and_graders(tmp_path: Path) -> None:
    check = {"type": "string_check", "input": "{{sample.output_text}}", "reference": "{{item.sum}}", "operation": "eq"}
    made = runner.job(
        "styles",
        model="none/none",
        dataset=[{"prompt": "1 + 1 =", "sum": "2"}],
        rewards={
            "right": runner.reward(trl_style, style="trl", clip=(0, 1)),
            "exact": {"grader": check, "weight": 0.5, "only_if": "right > 0"},
        },
        grpo={"steps": 1, "prompts_per_step": 1, "num_generations": 2},
        emulator={"policy": "replay", "completions": [{"prompt": "1 + 1 =", "completions": ["2", "it is 2", "3"]}]},
        home=tmp_path,
    )
    run = runner.emulate(made, home=tmp_path)
    assert run.state == "succeeded"
    for row in run.completions():
        right = 1.0 if row.completion.endswith("2") else 0.0
        assert row.scores["right"].value == right
        assert row.scores["exact"].value == (float(row.completion == "2") if right else None)
