"""Several steps on one generation batch: which rows, with whose log-probabilities, and over a checkpoint."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from emulator.backend import EmulatorBackend
from runner.grpo.order import rows_of
from runner.grpo.types import Reason
from runner.journal.events import CheckpointSaved
from runner.spec.model import JobSpec
from tests.backends.kit import batches, events_of, make_job, make_run, metrics

POLICIES = ["replay", pytest.param("lm", marks=pytest.mark.lm)]


def job_of(policy: str, folder: Path, **grpo: object) -> JobSpec:
    made = make_job("none", **{"learning_rate": 3e-3, **grpo})
    emulator = made.emulator.model_copy(update={"policy": policy})
    if policy == "replay":
        file = folder / "completions.jsonl"
        file.write_text("\n".join(json.dumps({"number": n, "completions": list("abcdef")}) for n in range(9)))
        emulator = emulator.model_copy(update={"completions": str(file), "learning_rate": 4.0})
    return made.model_copy(update={"emulator": emulator})


def test_every_row_of_a_batch_is_trained_on_once_in_each_pass_in_the_same_parts() -> None:
    steps = [rows_of(7, step, rows=24, generate_every=3, num_iterations=2) for step in range(1, 13)]
    assert [sorted(row for part in steps[at : at + 3] for row in part) for at in (0, 3, 6, 9)] == [list(range(24))] * 4
    assert steps[:3] == steps[3:6]
    assert steps[6:9] == steps[9:12]
    assert steps[0] != steps[6]
    assert steps[0] != list(range(8))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_batch_is_drawn_when_the_one_before_is_used_up(policy: str, tmp_path: Path) -> None:
    job = job_of(policy, tmp_path, steps=8, generate_every=2, num_iterations=2)
    run = make_run(tmp_path, job)
    EmulatorBackend().train(job, run)
    assert [(batch.step, len(batch.groups)) for batch in batches(tmp_path)] == [(1, 4), (5, 4)]
    assert [event.step for event in metrics(tmp_path) if "loss" in event.metrics] == list(range(1, 9))
    assert [event.step for event in metrics(tmp_path) if "reward" in event.metrics] == [1, 5]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_run_stopped_anywhere_in_a_batch_goes_on_bitwise(policy: str, at: int, tmp_path: Path) -> None:
    def last_weights(folder: Path, stops: Sequence[int]) -> str:
        folder.mkdir()
        job = job_of(policy, folder, steps=6, generate_every=2, num_iterations=2, beta=0.05)
        for attempt, step in enumerate([*stops, 6], start=1):
            run = make_run(folder, job, attempt=attempt, stop_requested=lambda step=step: steps_done(folder) >= step)
            EmulatorBackend().train(job, run)
        assert run.ended is Reason.FINISHED
        return [event.weights for event in events_of(folder) if isinstance(event, CheckpointSaved)][-1]

    assert last_weights(tmp_path / "parts", [at]) == last_weights(tmp_path / "whole", [])


def steps_done(folder: Path) -> int:
    return max((event.step for event in metrics(folder)), default=0)


@pytest.mark.parametrize("policy", POLICIES)
def test_ratios_are_against_the_policy_that_drew_the_batch(policy: str, tmp_path: Path) -> None:
    settings = {"lr_scheduler_type": "constant", "epsilon": 0.01, "learning_rate": 3e-5, "loss_type": "grpo"}
    job = job_of(policy, tmp_path, steps=4, num_iterations=4, **settings)
    EmulatorBackend().train(job, make_run(tmp_path, job))
    losses = [event.metrics["loss"] for event in metrics(tmp_path)]
    assert losses[0] == pytest.approx(0.0, abs=1e-6)
    assert losses[1] < -1e-4
    assert losses[3] > -0.02, "what is clipped at 1 ± 0.01 gains no more"


def test_without_reuse_a_step_trains_on_its_whole_batch(tmp_path: Path) -> None:
    job = job_of("replay", tmp_path, steps=3)
    EmulatorBackend().train(job, make_run(tmp_path, job))
    assert Counter(batch.step for batch in batches(tmp_path)) == {1: 1, 2: 1, 3: 1}
