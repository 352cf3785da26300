"""The best checkpoint stays, whatever `keep` says."""

from __future__ import annotations

from pathlib import Path

from runner import api
from runner.grpo.checkpoint import find
from runner.grpo.guards import best_step
from runner.journal.folder import RunFolder
from runner.spec.model import Best
from tests.small_job import write_job


def test_the_latest_of_equals_is_best_and_only_steps_with_a_checkpoint_count() -> None:
    history = {"eval/reward": [(0, 9.0), (2, 0.5), (4, 0.7), (6, 0.7), (8, 0.1)]}
    assert best_step(Best(metric="eval/reward"), history, [2, 4, 6, 8]) == 6
    assert best_step(Best(metric="eval/reward", mode="min"), history, [2, 4, 6]) == 2
    assert best_step(Best(metric="loss"), history, [2, 4]) is None


def test_a_new_best_evaluation_is_saved_at_once_and_stays(tmp_path: Path) -> None:
    job = write_job(
        tmp_path,
        grpo={"steps": 12},
        evaluation={"every": 3},
        checkpoints={"every": 100, "keep": 1, "best": {"metric": "eval/reward", "mode": "min"}},
    )
    run = api.emulate(job, home=tmp_path)
    values = dict(run.metrics("eval/reward"))
    best = max(step for step in (3, 6, 9, 12) if values[step] == min(values[step] for step in (3, 6, 9, 12)))
    folder = RunFolder(run.folder)
    assert folder.best == best
    assert [item.step for item in find(folder.checkpoints)] == sorted({best, 12})
    assert api.checkpoint_of(run, "best").step == best
