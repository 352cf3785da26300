"""Equal jobs have equal revisions; live fields make no new one; the emulator's form lists what was not asked for."""

from typing import Any

import pytest

from runner.spec.model import Grpo, JobSpec, dump
from runner.spec.resolve import canonical, differences, for_backend, revision
from runner.spec.section import Count


def job(**fields: Any) -> JobSpec:
    minimal = {"name": "x", "model": "m", "dataset": {"path": "d.jsonl"}, "rewards": {"r": {"fn": "rewards.py:f"}}}
    return JobSpec.model_validate({**minimal, **fields})


def test_a_default_written_out_changes_nothing() -> None:
    assert canonical(job(lora={})) == canonical(job(lora={"rank": 64, "alpha": 64}))
    assert revision(job()) == revision(JobSpec.model_validate(dump(job())))
    assert revision(job(grpo={"learning_rate": 1})) == revision(job(grpo={"learning_rate": 1.0}))


@pytest.mark.parametrize(
    "live",
    [
        {"rewards": {"other": {"fn": "rewards.py:g"}}},
        {"priority": 5},
        {"limits": {"max_duration": "1h"}},
        {"labels": {"a": "b"}},
    ],
)
def test_a_live_field_makes_no_new_revision(live: dict[str, Any]) -> None:
    assert revision(job(**live)) == revision(job())


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"model": "n"}, {"grpo": {"beta": 0.1}}, {"lora": {}}, {"emulator": {"threads": 2}}]
)
def test_any_other_field_makes_a_new_revision(change: dict[str, Any]) -> None:
    assert revision(job(**change)) != revision(job())


def test_a_revision_is_the_sha256_of_the_canonical_job() -> None:
    assert len(revision(job())) == 64
    assert canonical(job(lora={}, grpo={"steps": 200, "beta": 0.1})) == (
        b'{"dataset":{"path":"d.jsonl"},"grpo":{"beta":0.1},"lora":{},"model":"m","name":"x"}'
    )


def test_a_release_that_adds_fields_or_changes_a_default_gives_the_same_revision() -> None:
    class LaterGrpo(Grpo):
        steps: Count = 300
        novelty: float = 0.5

    class LaterSpec(JobSpec):
        grpo: Grpo = LaterGrpo()
        surprise: str = "none"

    before = {"name": "x", "model": "m", "dataset": {"path": "d.jsonl"}, "rewards": {"r": {"fn": "rewards.py:f"}}}
    assert revision(LaterSpec.model_validate(before)) == revision(JobSpec.model_validate(before))
    other = {**before, "surprise": "yes"}
    assert revision(LaterSpec.model_validate(other)) != revision(JobSpec.model_validate(before))


def test_trl_runs_the_job_as_it_stands() -> None:
    assert for_backend(job(), "trl") == (job(), [])


def test_the_emulator_caps_sizes_left_unset_and_lists_every_cap() -> None:
    asked = job(grpo={"steps": 200, "prompts_per_step": 4, "num_generations": 16, "learning_rate": 1e-5})
    small, notes = for_backend(asked, "emulator")
    grpo = small.grpo
    assert (grpo.steps, grpo.prompts_per_step, grpo.num_generations, grpo.max_completion_length) == (50, 4, 8, 64)
    assert grpo.learning_rate == 5e-4
    assert [(note.field, note.asked, note.kind) for note in notes] == [
        ("grpo.steps", "200", "capped"),
        ("grpo.num_generations", "16", "capped"),
        ("grpo.max_completion_length", "512", "capped"),
        ("grpo.learning_rate", "1e-05", "capped"),
    ]
    assert notes[0].detail == "50 on a CPU; `emulator.steps` decides"


def test_an_explicit_override_is_no_difference_and_may_exceed_the_cap() -> None:
    own = {"steps": 300, "num_generations": 4, "max_completion_length": 48, "learning_rate": 3e-4, "beta": 0.1}
    small, notes = for_backend(job(emulator={**own, "evaluate_every": 5, "checkpoint_every": 7}), "emulator")
    assert notes == []
    assert {name: getattr(small.grpo, name) for name in own} == own
    assert (small.evaluation.every, small.checkpoints.every) == (5, 7)


def test_replay_keeps_its_learning_rate() -> None:
    small, notes = for_backend(job(emulator={"policy": "replay", "completions": "c.jsonl"}), "emulator")
    assert small.grpo.learning_rate == 1e-6
    assert "grpo.learning_rate" not in [note.field for note in notes]


def test_a_stop_condition_judges_real_runs_only_and_the_emulated_run_says_so() -> None:
    small, notes = for_backend(job(stop={"metric": "reward", "at_least": 1}), "emulator")
    assert small.stop is None
    assert [(note.field, note.kind) for note in notes][-1] == ("stop", "not applicable")


def test_resolving_twice_changes_nothing_more() -> None:
    small, _ = for_backend(job(stop={"metric": "reward", "at_least": 1}), "emulator")
    assert for_backend(small, "emulator") == (small, [])


def test_two_jobs_differ_by_dotted_path() -> None:
    old, new = job(lora={"rank": 8}), job(lora={"rank": 8}, seed=1, grpo={"beta": 0.1}, labels={"a": "b"})
    assert differences(old, new) == {
        "seed": (0, 1),
        "grpo.beta": (0.0, 0.1),
        "labels": ({}, None),
        "labels.a": (None, "b"),
    }
    assert differences(job(), job(lora={}))["lora.rank"] == (None, 64)
    assert differences(job(), job()) == {}
