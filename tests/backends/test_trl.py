"""The TRL backend on the CPU, through a real Run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from runner.data.examples import Example
from runner.grpo import checkpoint as checkpoints
from runner.grpo.types import Group, Reason, Scored
from runner.journal.events import ExamplesSeen
from runner.rewards import bundle
from runner.rewards.contract import GroupCall, Score
from runner.rewards.host import RewardHost
from runner.spec.model import Grpo, JobSpec, Reward
from tests.backends.kit import Function, PureScorer, batches, events_of, make_job, make_run, metrics, questions

pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = [pytest.mark.trl, pytest.mark.usefixtures("cpu")]

from runner.backends.trl import reporter  # noqa: E402
from runner.backends.trl.backend import TRLBackend  # noqa: E402
from runner.backends.trl.model import load_tokenizer, prompt_text  # noqa: E402
from runner.backends.trl.trainer import AdvantageMismatch, check_advantages  # noqa: E402

REWARDS = """
import time
import zlib

def fussy(prompt, completion, example):
    match example["number"]:
        case 0:
            return None
        case 1:
            raise ValueError("I don't like ones")
        case 2:
            time.sleep(60)
        case 3 if zlib.crc32(completion.encode()) % 2:
            raise KeyError(completion)
    return zlib.crc32(completion.encode()) % 1000 / 1000

def length(prompt, completion, example):
    return len(completion)

def seen(prompt, completion, example):
    return 1
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[RewardHost]:
    """Real rewards, of which one gives None, raises and hangs, by the number in the example."""
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "rewards.py").write_text(REWARDS)
    rewards = {
        "fussy": Reward(fn="rewards.py:fussy", timeout=0.2),
        "length": Reward(fn="rewards.py:length", weight=-0.1),
        "seen": Reward(fn="rewards.py:seen", weight=0.0),
    }
    written = bundle.write(bundle.build(rewards, folder), tmp_path / "rewards")
    with RewardHost(written, seed=0) as host:
        yield host


def test_every_step_trains_on_the_recorded_advantages(tiny_model: Path, tmp_path: Path, host: RewardHost) -> None:
    run = make_run(tmp_path, make_job(tiny_model, steps=3), scorer=host)
    TRLBackend().train(run.job, run)
    differences = [event.metrics["advantages_max_difference"] for event in metrics(tmp_path)]
    assert len(differences) == 3
    assert max(differences) < 1e-5
    rollouts = [rollout for batch in batches(tmp_path) for group in batch.groups for rollout in group.rollouts]
    by_outcome = {rollout.scores[0].outcome: rollout for rollout in rollouts}
    assert by_outcome.keys() == {"ok", "none", "exception", "timeout"}
    assert (by_outcome["exception"].reward, by_outcome["exception"].advantage) == (None, 0.0)
    assert (by_outcome["timeout"].reward, by_outcome["timeout"].advantage) == (None, 0.0)
    assert by_outcome["none"].reward == pytest.approx(-0.1 * len(by_outcome["none"].completion))


def test_figures_of_rewards_and_lengths_equal_trls(
    tiny_model: Path, tmp_path: Path, host: RewardHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But `rewards/<name>/…` of a batch with failed calls: TRL sees no score of a completion that left its group."""
    logs: list[dict[str, Any]] = []
    ours = reporter.metrics_of
    monkeypatch.setattr(reporter, "metrics_of", lambda log: logs.append(dict(log)) or ours(log))
    run = make_run(tmp_path, make_job(tiny_model, steps=3), scorer=host, held_out=questions(3, 50))
    TRLBackend().train(run.job, run)
    reported = [event.metrics for event in metrics(tmp_path)]
    assert len(logs) == len(reported) == 5  # an evaluation, three steps, an evaluation
    for log, figures in zip(logs, reported, strict=True):
        prefix = "eval/" if "eval/loss" in figures else ""
        failed = figures[f"{prefix}rewards/fussy/error_rate"] > 0
        theirs = {name.removeprefix("eval_"): value for name, value in log.items() if value is not None}
        assert ("reward" in theirs) == (f"{prefix}reward" in figures)
        for name in [name for name in theirs if name.startswith(("reward", "frac_", "completions/"))]:
            if not (failed and name.startswith("rewards/")):
                assert figures[prefix + name] == pytest.approx(theirs[name], abs=1e-5), name
    assert {"loss", "grad_norm", "learning_rate", "entropy", "num_tokens", "step_time"} <= set(reported[1])


def test_a_reward_version_with_other_functions_takes_over_between_steps(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, make_job(tiny_model, steps=3), scorer=ChangingScorer())
    TRLBackend().train(run.job, run)
    assert [batch.reward_version for batch in batches(tmp_path)] == ["v1", "v2", "v2"]
    assert max(event.metrics["advantages_max_difference"] for event in metrics(tmp_path)) < 1e-5
    first, second, _ = (batch.groups[0].rollouts[0] for batch in batches(tmp_path))
    assert first.reward == pytest.approx((first.scores[0].value or 0) - 0.1 * len(first.completion))
    assert second.reward == pytest.approx(2 * len(second.completion))


def test_prompts_come_in_the_order_of_the_run(tiny_model: Path, tmp_path: Path) -> None:
    job = make_job(tiny_model, steps=4, generate_every=2, num_generations=2)
    run = make_run(tmp_path, job, train=questions(3))
    TRLBackend().train(job, run)
    seen = [(batch.step, [group.example_id for group in batch.groups]) for batch in batches(tmp_path)]
    assert seen == [(step, [example.id for example in run.examples(step)]) for step in (1, 3)]
    assert [len(ids) for _, ids in seen] == [4, 4]


def test_a_group_holds_the_completions_of_one_prompt_as_the_model_saw_it(tiny_model: Path, tmp_path: Path) -> None:
    groups: list[Group] = []
    run = make_run(tmp_path, make_job(tiny_model, steps=1))
    score = run.score
    run.score = lambda given, **where: groups.extend(given) or score(given, **where)  # type: ignore[method-assign]
    TRLBackend().train(run.job, run)
    assert [group.prompt for group in groups] == [
        f"<|user|>What is {example.id}?<|end|><|assistant|>" for example in run.examples(1)
    ]
    completions = [completion for group in groups for completion in group.completions]
    assert len(completions) == 8
    assert {completion.finish for completion in completions} == {"eos", "length"}
    assert all(completion.n_tokens == 8 for completion in completions if completion.finish == "length")
    assert not any("<|end|>" in completion.text for completion in completions)


def test_text_prompts_reach_the_model_as_they_stand(tiny_model: Path, tmp_path: Path) -> None:
    train = [Example(id=i, prompt=f"{i}: ", columns={}) for i in range(2)]
    run = make_run(tmp_path, make_job(tiny_model, steps=1), train=train)
    TRLBackend().train(run.job, run)
    seen = [row.prompt for event in events_of(tmp_path) if isinstance(event, ExamplesSeen) for row in event.examples]
    assert sorted(seen) == ["0: ", "1: "]


def test_a_prefilled_turn_stays_open(tiny_model: Path) -> None:
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "<think>"}]
    example = Example(id=0, prompt=messages, columns={})  # type: ignore[arg-type]
    assert prompt_text(load_tokenizer(make_job(tiny_model)), example) == "<|user|>2+2?<|end|><|assistant|><think>"


def test_greedy_evaluation_is_repeatable_and_leaves_training_alone(tiny_model: Path, tmp_path: Path) -> None:
    without = make_run(tmp_path / "without", make_job(tiny_model, steps=2))
    job = make_job(tiny_model, steps=2, evaluation={"every": 1})
    with_evaluation = make_run(tmp_path / "with", job, held_out=[*questions(2, 50), *questions(1, 50)])
    for run in (without, with_evaluation):
        TRLBackend().train(run.job, run)
    first, second, again = batches(tmp_path / "with", "eval")[0].groups
    assert [group.example_id for group in (first, second, again)] == [50, 51, 50]
    assert first.rollouts == again.rollouts
    assert [b.groups for b in batches(tmp_path / "with")] == [b.groups for b in batches(tmp_path / "without")]


def test_an_evaluation_of_many_prompts_is_one_evaluation(tiny_model: Path, tmp_path: Path) -> None:
    job = make_job(tiny_model, steps=1, evaluation={"num_generations": 3, "temperature": 1.0})
    run = make_run(tmp_path, job, held_out=questions(5, 50))  # 15 completions, at most 6 at a time
    TRLBackend().train(job, run)
    at_start = [batch for batch in batches(tmp_path, "eval") if batch.step == 0]
    assert [group.group_id for batch in at_start for group in batch.groups] == [0, 1, 2, 3, 4]
    assert [group.example_id for batch in at_start for group in batch.groups] == [50, 51, 52, 53, 54]
    assert {len(group.rollouts) for batch in at_start for group in batch.groups} == {3}


def test_a_goal_reached_before_the_first_step_ends_the_run_there(tiny_model: Path, tmp_path: Path) -> None:
    base = make_job(tiny_model, steps=3)
    job = JobSpec.model_validate(
        {**base.model_dump(by_alias=True), "stop": {"metric": "eval/rewards/checksum/mean", "at_least": 0.0}}
    )
    run = make_run(tmp_path, job, held_out=questions(2, 50))
    TRLBackend().train(job, run)
    assert run.ended is Reason.GOAL_REACHED
    assert batches(tmp_path) == []


def test_weights_beyond_float32_end_the_run_as_diverged(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, make_job(tiny_model, steps=3, learning_rate=1e30))
    TRLBackend().train(run.job, run)
    assert (run.ended, run.step) == (Reason.DIVERGED, 1)
    assert checkpoints.find(tmp_path / "checkpoints") == []


def test_a_checkpoint_is_a_model_folder_that_generates(tiny_model: Path, tmp_path: Path) -> None:
    job = make_job(tiny_model, steps=1)
    run = make_run(tmp_path, job)
    TRLBackend().train(job, run)
    [saved] = checkpoints.find(tmp_path / "checkpoints")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "journal-1.jsonl"]
    for at in (None, saved.path):
        asked = [Example(id=0, prompt="x", columns={}), *questions(1)]
        first = TRLBackend().generate(job, at, asked, 3)
        assert [len(completions) for completions in first] == [3, 3]
        assert first == TRLBackend().generate(job, at, asked, 3)


def test_a_difference_in_advantages_stops_with_both_figures() -> None:
    scored = scored_as([1.0, 0.0], advantages=[0.707, -0.707])
    assert check_advantages(scored, [0.707, -0.707], 2, Grpo()) == 0.0
    with pytest.raises(AdvantageMismatch, match=r"completion 1: TRL's advantage is -0.5, ours -0.707"):
        check_advantages(scored, [0.707, -0.5], 2, Grpo())
    with pytest.raises(AdvantageMismatch):
        check_advantages(scored, [0.707, math.nan], 2, Grpo())


def test_what_float32_loses_is_no_difference() -> None:
    """Equal rewards of 100.1 differ from their mean in float32; the small spread blows that up."""
    equal = scored_as([100.1] * 3, advantages=[0.0] * 3)
    assert check_advantages(equal, [0.07, 0.07, -0.07], 3, Grpo()) == 0.07
    with pytest.raises(AdvantageMismatch):
        check_advantages(
            scored_as([100.1, 99.1], advantages=[0.707, -0.707]), [0.777, -0.777], 2, Grpo(scale_rewards="group")
        )
    with pytest.raises(AdvantageMismatch):
        check_advantages(equal, [0.07, 0.07, -0.07], 3, Grpo(scale_rewards="none"))


def scored_as(rewards: Sequence[float], *, advantages: list[float]) -> Scored:
    return Scored(
        version="v1",
        names=("a",),
        weights=(1.0,),
        values=[[reward] for reward in rewards],
        rewards=list(rewards),
        advantages=advantages,
        scores=[],
    )


def test_a_micro_batch_that_does_not_fit_is_found_before_training(tiny_model: Path) -> None:
    [finding] = TRLBackend().check(make_job(tiny_model, micro_batch=3))
    assert finding.field == "grpo.micro_batch"
    assert "does not divide the 8 completions of a step" in finding.message


def test_without_a_gpu_the_cpu_has_to_be_insisted_on(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert TRLBackend().check(make_job(tiny_model)) == []
    monkeypatch.delenv("RUNNER_DEVICE")
    [finding] = TRLBackend().check(make_job(tiny_model))
    assert (finding.code, finding.message) == ("environment", "There is no GPU here.")
    assert "runner emulate" in finding.hint


class ChangingScorer(PureScorer):
    """From step 2 on only `length` is optimised, with another weight."""

    def score(self, groups: Sequence[GroupCall], *, step: int, split: str) -> list[list[Score]]:
        rows = super().score(groups, step=step, split=split)
        if step < 2:
            return rows
        self.version, self.functions = "v2", (Function("length", weight=2.0),)
        return [row[1:] for row in rows]
