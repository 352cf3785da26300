"""A format of one's own: demonstrations give it spread, GRPO then makes it frequent."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from emulator.backend import EmulatorBackend
from emulator.lm.examples import read_demonstrations
from runner import api
from runner.spec.errors import JobError
from runner.spec.model import JobSpec
from tests.queue.test_runs import rows
from tests.small_job import write_job

pytestmark = pytest.mark.lm

REWARDS = """
import json


def right(prompt, completion, example):
    try:
        return 1.0 if set(json.loads(completion)) == {"sum"} else 0.0
    except (ValueError, TypeError):
        return 0.0


def short(prompt, completion, example):
    return 0.0
"""


def demonstrations(path: Path) -> Path:
    lines = [
        {"a": a, "b": b, "good": [json.dumps({"sum": a + b})], "bad": [f"It is {a + b}.", f"sum={a + b}"]}
        for a in range(4)
        for b in range(6)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def small(folder: Path, **emulator: Any) -> Path:
    job = write_job(
        folder,
        rewards=REWARDS,
        grpo={"steps": 20, "prompts_per_step": 4, "num_generations": 8, "max_completion_length": 16},
        emulator={"policy": "lm", "completions": None, "learning_rate": 1e-3, **emulator},
        evaluation={"every": 100},
        checkpoints={"every": 10},
    )
    demonstrations(job.parent / "demonstrations.jsonl")
    return job


def test_a_foreign_format_gets_spread_from_demonstrations_and_is_then_learnt(tmp_path: Path) -> None:
    job = small(tmp_path, demonstrations="demonstrations.jsonl", faults=[{"at_step": 15, "kind": "kill"}])
    run = api.emulate(job, home=tmp_path)
    assert run.row.reason == "lost"
    base = run.folder / "demonstrated/model.safetensors"
    made = base.stat().st_mtime_ns
    assert run.resume().row.state == "succeeded"
    assert base.stat().st_mtime_ns == made, "taught once, not again by the second attempt"
    assert (run.folder / "source/demonstrations.jsonl").exists()
    right = [value for _, value in run.metrics("rewards/right/mean")]
    assert 0.2 < right[0] < 0.8
    assert mean(right[-3:]) > max(0.8, right[0] + 0.2)
    again = api.emulate(job, home=tmp_path, overrides=["emulator.faults=[]"])
    assert again.row.digest == run.row.digest
    without = api.emulate(job, home=tmp_path, overrides=["emulator.demonstrations=null", "emulator.steps=4"])
    assert [value for _, value in without.metrics("rewards/right/mean")] == [0.0] * 4, "no signal without them"
    assert rows(tmp_path, "SELECT count(DISTINCT digest) FROM runs") == [(2,)]


def spec(path: Path, **dataset: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "model": "none",
            "dataset": {"path": "data.jsonl", "prompt": "{a} + {b} =", **dataset},
            "rewards": {"right": {"fn": "rewards.py:right"}},
            "grpo": {"max_completion_length": 16},
            "emulator": {"demonstrations": str(path)},
        }
    )


def test_rows_become_prompts_as_the_datasets_do_or_bring_their_own(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"a": 1, "b": 2, "good": ["3"], "bad": "4"}')
    [row] = read_demonstrations(spec(path, system="Add."))
    assert row.example.prompt == [{"role": "system", "content": "Add."}, {"role": "user", "content": "1 + 2 ="}]
    assert (row.good, row.bad) == (["3"], ["4"])
    path.write_text('{"prompt": "one and two?", "good": ["3"], "bad": ["4"]}')
    assert read_demonstrations(spec(path))[0].example.prompt == "one and two?"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "b": 2, "good": ["3"]}', "no row has completions under `bad`; the policy needs both kinds"),
        ('{"a": 1, "b": 2, "bad": ["3"]}', "no row has completions under `good`"),
        ('{"a": 1, "b": 2, "good": ["3"], "bad": ["4"]}\n{"a": 1, "b": 2}', "neither `good` nor `bad`"),
        ('{"a": 1, "b": 2, "good": [3], "bad": ["4"]}', "`good` must be a list of texts, and is [3]"),
        ('{"a": 1, "good": ["3"], "bad": ["4"]}', "column `b`"),
        ("", "has no rows"),
    ],
)
def test_demonstrations_that_teach_nothing_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(text)
    [finding, *_] = EmulatorBackend().check(spec(path))
    assert finding.field == "emulator.demonstrations"
    assert words in finding.message
    with pytest.raises(JobError):
        read_demonstrations(spec(path))
