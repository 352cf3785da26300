"""A run that is stopped and resumed ends with the same bits as one that is not.

On one process, with transformers' generation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runner.grpo import checkpoint as checkpoints
from runner.grpo.run import Run
from runner.grpo.types import Reason
from runner.spec.model import JobSpec
from tests.backends.kit import batches, make_job, make_run, questions

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.trl

from runner.backends.trl.backend import TRLBackend  # noqa: E402


@dataclass
class Scenario:
    steps: int
    stop_at: int
    examples: int = 12
    grpo: dict[str, Any] = field(default_factory=dict)


SCENARIOS = {
    "inside the first pass over the data": Scenario(steps=3, stop_at=2),
    "after a full pass": Scenario(steps=4, stop_at=3, examples=4),
    "exactly at the end of a pass": Scenario(steps=4, stop_at=2, examples=4),
    "in the middle of a generation batch": Scenario(steps=4, stop_at=1, grpo={"generate_every": 2, "micro_batch": 4}),
    "between two iterations over a batch": Scenario(steps=4, stop_at=3, grpo={"num_iterations": 2, "micro_batch": 4}),
    "in the middle of both, with a reference": Scenario(
        steps=6, stop_at=3, grpo={"generate_every": 2, "num_iterations": 2, "beta": 0.05}
    ),
}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_stopped_and_resumed_equals_uninterrupted(
    scenario: Scenario, tiny_model: Path, tmp_path: Path, cpu: None
) -> None:
    job = make_job(tiny_model, steps=scenario.steps, **scenario.grpo)
    straight = attempt(tmp_path / "straight", job, scenario)
    stopped = attempt(tmp_path / "stopped", job, scenario, stop_at=scenario.stop_at)
    assert (stopped.step, stopped.ended) == (scenario.stop_at, Reason.STOPPED)
    resumed = attempt(tmp_path / "stopped", job, scenario, number=2)
    assert straight.ended is resumed.ended is Reason.FINISHED
    assert rollouts(tmp_path / "straight") == rollouts(tmp_path / "stopped")
    expected, actual = last_checkpoint(tmp_path / "straight"), last_checkpoint(tmp_path / "stopped")
    assert actual.weights == expected.weights
    assert_same(load(expected, "optimizer.pt"), load(actual, "optimizer.pt"))
    assert_same(load(expected, "grpo_state.pt"), load(actual, "grpo_state.pt"))


def test_the_weights_do_change_from_step_to_step(tiny_model: Path, tmp_path: Path, cpu: None) -> None:
    scenario = SCENARIOS["inside the first pass over the data"]
    job = make_job(tiny_model, steps=3).model_copy(update={"checkpoints": checkpoints_every_step()})
    attempt(tmp_path, job, scenario)
    found = checkpoints.find(tmp_path / "checkpoints")
    assert [checkpoint.step for checkpoint in found] == [1, 2, 3]
    assert len({checkpoint.weights for checkpoint in found}) == 3


def test_a_lora_run_resumes_exactly_through_a_due_evaluation(tiny_model: Path, tmp_path: Path, cpu: None) -> None:
    base = make_job(tiny_model, steps=4, beta=0.05, evaluation={"every": 2, "num_generations": 2, "temperature": 1.0})
    job = JobSpec.model_validate({**base.model_dump(by_alias=True), "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.1}})
    scenario = Scenario(steps=4, stop_at=2)
    attempt(tmp_path / "straight", job, scenario, held_out=3)
    attempt(tmp_path / "stopped", job, scenario, stop_at=2, held_out=3)
    attempt(tmp_path / "stopped", job, scenario, number=2, held_out=3)
    assert [batch.step for batch in batches(tmp_path / "straight", "eval")] == [0, 2, 4]
    assert rollouts(tmp_path / "straight", "eval") == rollouts(tmp_path / "stopped", "eval")
    assert rollouts(tmp_path / "straight") == rollouts(tmp_path / "stopped")
    assert last_checkpoint(tmp_path / "straight").weights == last_checkpoint(tmp_path / "stopped").weights


def test_a_finished_run_trains_no_further(tiny_model: Path, tmp_path: Path, cpu: None) -> None:
    job = make_job(tiny_model, steps=1)
    scenario = Scenario(steps=1, stop_at=1)
    attempt(tmp_path, job, scenario)
    again = attempt(tmp_path, job, scenario, number=2, held_out=2)
    assert again.ended is Reason.FINISHED
    assert [batch.step for batch in batches(tmp_path)] == [1]
    assert [batch.step for batch in batches(tmp_path, "eval")] == [1]


def attempt(
    folder: Path, job: JobSpec, scenario: Scenario, *, number: int = 1, stop_at: int | None = None, held_out: int = 0
) -> Run:
    run = make_run(
        folder,
        job,
        attempt=number,
        train=questions(scenario.examples),
        held_out=questions(held_out, start=100),
        stop_requested=lambda: run.step == stop_at,
    )
    TRLBackend().train(job, run)
    return run


def checkpoints_every_step() -> Any:
    from runner.spec.model import Checkpoints

    return Checkpoints(every=1, keep=10)


def rollouts(folder: Path, split: str = "train") -> list[Any]:
    return [(batch.step, batch.groups) for batch in batches(folder, split)]


def last_checkpoint(folder: Path) -> checkpoints.Checkpoint:
    return checkpoints.find(folder / "checkpoints")[-1]


def load(checkpoint: checkpoints.Checkpoint, name: str) -> Any:
    return torch.load(checkpoint.path / name, weights_only=True)


def assert_same(expected: Any, actual: Any) -> None:
    """Bit for bit, through nested containers."""
    assert type(expected) is type(actual)
    if isinstance(expected, torch.Tensor):
        assert torch.equal(expected, actual)
    elif isinstance(expected, dict):
        assert expected.keys() == actual.keys()
        for key in expected:
            assert_same(expected[key], actual[key])
    elif isinstance(expected, list | tuple):
        assert len(expected) == len(actual)
        for left, right in zip(expected, actual, strict=True):
            assert_same(left, right)
    else:
        assert expected == actual
