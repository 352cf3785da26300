"""Replay: what is recorded, from a file or from an earlier run, and what happens where nothing is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emulator.replay import Recorded
from runner import api
from runner.data.examples import Example
from runner.journal.completions import recorded
from runner.queue.jobs import validate
from runner.spec.errors import JobError
from tests.queue.test_runs import rows
from tests.small_job import write_job


def example(id: int = 0, prompt: str = "p", **columns: Any) -> Example:
    return Example(id=id, prompt=prompt, columns=columns)


def file_of(folder: Path, *lines: dict[str, Any]) -> Path:
    path = folder / "completions.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def without(job: Path, *numbers: int) -> None:
    """Takes rows of recorded completions away."""
    path = job.parent / "completions.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for i, line in enumerate(lines) if i not in numbers))


def test_a_prompt_is_matched_before_columns_and_the_first_row_that_fits_counts(tmp_path: Path) -> None:
    found = Recorded(
        file_of(
            tmp_path,
            {"a": 1, "completions": ["by a"]},
            {"a": 1, "b": 2, "completions": ["by both"]},
            {"a": 1, "completions": ["later"]},
            {"prompt": "exactly", "completions": ["by prompt"]},
        )
    )
    assert found.of(example(a=1, b=2)) == ["by a"]
    assert found.of(example(a=1.0, c=[3])) == ["by a"]
    assert found.of(example(prompt="exactly", a=1)) == ["by prompt"]
    assert found.of(example(a=2, b=2)) == []
    assert found.of(example(b=2)) == []


@pytest.mark.parametrize("line", ["{", "[1]", '{"a": 1}', '{"completions": []}', '{"completions": [1]}'])
def test_a_row_that_holds_no_completions_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "completions.jsonl"
    path.write_text('{"a": 1, "completions": ["x"]}\n\n' + line)
    with pytest.raises(JobError, match=r"completions\.jsonl:3: "):
        Recorded(path)


def test_training_prompts_without_completions_refuse_the_job_before_anything_runs(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    without(job, 2, 3, 4)
    with pytest.raises(JobError) as refused:
        api.emulate(job, home=tmp_path)
    [finding] = refused.value.findings
    assert (finding.code, finding.field) == ("no-completions", "emulator.completions")
    trained = [example.id for example in validate(job, (), "emulator").data.train if example.id in (2, 3, 4)]
    assert finding.message.startswith(f"{len(trained)} of the prompts have no recorded completions; ")
    assert f"the first is example {trained[0]}: " in finding.message
    assert (Path(finding.file).name, finding.excerpt.strip()) == ("job.yaml", "completions: completions.jsonl")
    assert not (tmp_path / ".runner/runs").exists() or not list((tmp_path / ".runner/runs").iterdir())


def test_held_out_prompts_without_completions_are_not_evaluated_and_that_is_said(tmp_path: Path) -> None:
    job = write_job(tmp_path, evaluation={"every": 10})
    held_out = [example.id for example in validate(job, (), "emulator").data.eval]
    assert len(held_out) >= 3
    without(job, *held_out[:2])
    run = api.emulate(job, home=tmp_path)
    assert run.row.state == "succeeded"
    tried = rows(tmp_path, "SELECT DISTINCT example_id FROM rollouts WHERE split = 'eval' ORDER BY 1")
    assert tried == [(id,) for id in held_out[2:]]
    said = [item.detail for item in api.differences(validate(job, (), "emulator")) if item.field == "evaluation"]
    assert said == [
        f"2 of {len(held_out)} held-out prompts have no recorded completions",
        "replay learns each prompt by itself, so figures of held-out prompts stay as they are",
    ]


def test_without_any_recorded_held_out_prompt_there_is_no_evaluation(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    held_out = [example.id for example in validate(job, (), "emulator").data.eval]
    without(job, *held_out)
    run = api.emulate(job, home=tmp_path)
    assert run.row.state == "succeeded"
    assert run.metrics("eval/reward") == []


def test_what_an_earlier_run_wrote_is_replayed_even_when_that_run_is_gone(tmp_path: Path) -> None:
    first = api.emulate(write_job(tmp_path, name="first", grpo={"steps": 40}), home=tmp_path)
    source = recorded(first.folder)
    texts = {row["a"] * 6 + row["b"]: row["completions"] for row in source}
    assert set(texts) == set(range(24)), "every example was seen in 40 steps"
    job = write_job(tmp_path, name="second", emulator={"completions": f"run:{first.id}"})
    second = api.emulate(job, home=tmp_path, overrides=["emulator.faults=[{at_step: 8, kind: kill}]"])
    assert second.row.reason == "lost"
    first.folder.rename(tmp_path / "elsewhere")
    assert second.resume().row.state == "succeeded"
    for completion in second.completions():
        assert completion.completion in texts[completion.example_id]


def test_a_run_that_is_not_there_is_an_error_of_the_job(tmp_path: Path) -> None:
    job = write_job(tmp_path, emulator={"completions": "run:nothing-3"})
    with pytest.raises(JobError, match="there is no run:nothing-3") as refused:
        api.emulate(job, home=tmp_path)
    assert refused.value.findings[0].code == "semantic"


def test_a_file_that_is_not_there_is_an_error_of_the_job(tmp_path: Path) -> None:
    job = write_job(tmp_path, emulator={"completions": "nowhere.jsonl"})
    with pytest.raises(JobError, match=r"nowhere.jsonl can't be read"):
        api.emulate(job, home=tmp_path)
