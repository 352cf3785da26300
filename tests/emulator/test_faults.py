"""Every fault, in a real run with real processes: it ends as promised, and goes on as if nothing had happened."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from runner import api
from runner.store.errors import StoreError
from tests.queue.test_runs import ended, everything, rows, until
from tests.small_job import write_job

STEPS = 12


def faulty(folder: Path, **fault: Any) -> Path:
    """A job with a fault in the middle of step 8; checkpoints at 5 and 10."""
    return write_job(folder, name="faulty", grpo={"steps": STEPS}, emulator={"faults": [{"at_step": 8, **fault}]})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Digest and records of the run that nothing happens to."""
    home = tmp_path_factory.mktemp("whole")
    run = api.emulate(write_job(home, grpo={"steps": STEPS}), home=home)
    assert run.row.state == "succeeded"
    assert run.row.digest is not None
    return run.row.digest, everything(home, run.id)


@pytest.mark.parametrize(
    ("kind", "reason", "words"),
    [
        ("crash", "lost", "killed by signal 6"),
        ("kill", "lost", "killed by signal 9"),
        ("out_of_memory", "out_of_memory", "the fault of step 8"),
        ("disk_full", "disk_full", "no space left on the disk"),
    ],
)
def test_a_fault_that_ends_the_attempt_holds_the_run_and_a_resume_ends_as_if_it_had_not_been(
    tmp_path: Path, whole: tuple[str, dict[str, Any]], kind: str, reason: str, words: str
) -> None:
    run = api.emulate(faulty(tmp_path, kind=kind), home=tmp_path)
    assert (run.row.state, run.row.reason) == ("held", reason)
    assert words in run.row.detail
    assert run.resume().row.state == "succeeded"
    assert rows(tmp_path, "SELECT n, resumed_step FROM attempts") == [(1, None), (2, 5)]
    assert everything(tmp_path, run.id) == whole[1]
    assert run.row.digest == whole[0]


def test_a_trainer_that_hangs_is_ended_by_the_second_stop_and_goes_on(
    tmp_path: Path, whole: tuple[str, dict[str, Any]]
) -> None:
    run = api.emulate(faulty(tmp_path, kind="hang"), home=tmp_path, wait=False)
    until(lambda: (run.folder / "faults.json").exists())
    run.stop()
    time.sleep(0.2)
    run.stop()
    assert (ended(run).state, run.row.reason) == ("held", "stopped")
    assert run.resume().row.state == "succeeded"
    assert run.row.digest == whole[0]


@pytest.mark.parametrize("fault", [{"kind": "slow_step", "seconds": 0.5}, {"kind": "lost_reward_worker"}])
def test_a_slow_step_and_a_lost_reward_worker_change_nothing(
    tmp_path: Path, whole: tuple[str, dict[str, Any]], fault: dict[str, Any]
) -> None:
    run = api.emulate(faulty(tmp_path, **fault), home=tmp_path)
    assert run.row.state == "succeeded"
    assert json.loads((run.folder / "faults.json").read_text()) == {"happened": [0]}
    assert everything(tmp_path, run.id) == whole[1]
    assert run.row.digest == whole[0]


def test_an_update_that_is_not_a_number_fails_the_run_and_a_rerun_from_its_checkpoint_ends_with_the_same_weights(
    tmp_path: Path, whole: tuple[str, dict[str, Any]]
) -> None:
    run = api.emulate(faulty(tmp_path, kind="nan"), home=tmp_path)
    assert (run.row.state, run.row.reason) == ("failed", "diverged")
    again = api.rerun(run.id, at=5, home=tmp_path, overrides=["emulator.faults=[]"])
    assert again.row.state == "succeeded"
    assert everything(tmp_path, again.id)["checkpoints"] == whole[1]["checkpoints"]
    later = [row for row in whole[1]["rollouts"] if row[0] == "train" and row[1] > 5]
    assert [row for row in everything(tmp_path, again.id)["rollouts"] if row[0] == "train"] == later


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ("lora.rank=4", "lora is set, but .* was trained with unset"),
        ("emulator.num_generations=2", "grpo.num_generations is 2, but .* was trained with 4"),
        ("emulator.policy=lm", "emulator.policy is lm, but .* was trained with replay"),
    ],
)
def test_a_checkpoint_that_does_not_fit_the_job_any_more_is_refused_before_a_rerun_is_made(
    tmp_path: Path, changed: str, words: str
) -> None:
    run = api.emulate(write_job(tmp_path, grpo={"steps": 5}), home=tmp_path)
    with pytest.raises(StoreError, match=words):
        api.rerun(run.id, at=5, home=tmp_path, overrides=[changed])
    assert len(api.runs(home=tmp_path)) == 1


def test_a_fault_happens_once_and_others_at_the_same_step_after_it(tmp_path: Path) -> None:
    faults = [{"at_step": 8, "kind": "kill"}, {"at_step": 8, "kind": "out_of_memory"}, {"at_step": 2, "kind": "kill"}]
    run = api.emulate(write_job(tmp_path, grpo={"steps": STEPS}, emulator={"faults": faults}), home=tmp_path)
    ends = [(run.row.reason, run.row.last_step)]
    for _ in range(3):
        run.resume()
        ends.append((run.row.reason, run.row.last_step))
    assert ends == [("lost", 1), ("lost", 7), ("out_of_memory", 7), ("finished", STEPS)]


@pytest.mark.lm
def test_a_language_model_that_crashes_in_the_midst_of_a_batch_of_several_steps_goes_on_bitwise(tmp_path: Path) -> None:
    grpo = {"steps": 6, "prompts_per_step": 2, "num_generations": 4, "max_completion_length": 8}
    lm = {"policy": "lm", "completions": None, "learning_rate": 1e-3}
    sections: dict[str, Any] = {"grpo": grpo, "checkpoints": {"every": 1}, "lora": {"rank": 4}}
    reuse = ["grpo.generate_every=2", "grpo.num_iterations=2"]
    faults = [{"at_step": step, "kind": "crash"} for step in (3, 6)]
    jobs = [
        write_job(tmp_path, name="plain", emulator=lm, **sections),
        write_job(tmp_path, name="hit", emulator=lm | {"faults": faults}, **sections),
    ]
    plain, run = (api.emulate(job, home=tmp_path, overrides=reuse) for job in jobs)
    assert plain.row.state == "succeeded", plain.row.detail
    for _ in faults:
        assert run.row.reason == "lost"
        run.resume()
    assert run.row.state == "succeeded"
    assert run.row.digest == plain.row.digest
    assert (run.folder / "checkpoints/step-000006/adapter_model.safetensors").exists()
