"""What every backend owes a run: one suite over the emulator's two policies and TRL, each the real one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from runner.backends import Backend, load_backend
from runner.grpo.reload import Past, Reload
from runner.grpo.run import Run
from runner.grpo.types import Reason
from runner.journal.events import VersionChanged
from runner.journal.log import Journal, read_types
from runner.rewards.bundle import build
from runner.rewards.contract import GroupCall, Outcome, Score
from runner.rewards.host import RewardHost
from runner.rewards.versions import Shelf
from runner.spec.model import JobSpec, Reward
from tests.backends.kit import Function, batches, events_of, make_job, make_run, metrics, questions

os.environ.setdefault("OMP_NUM_THREADS", "1")
BACKENDS = [
    "replay",
    pytest.param("lm", marks=pytest.mark.lm),
    pytest.param("trl", marks=pytest.mark.trl),
]


class Shorter:
    """Short completions are better; every seventh completion's call fails."""

    version = "v1"
    functions: Sequence[Function] = (Function("short"), Function("constant", weight=0.0))

    def __init__(self, failing: bool = False) -> None:
        self._failing = failing

    def score(self, groups: Sequence[GroupCall], *, step: int, split: str) -> list[list[Score]]:
        texts = [text for group in groups for text in group.completions]
        return [
            [self._score(i, text), Score(name="constant", value=1.0, outcome=Outcome.OK)]
            for i, text in enumerate(texts)
        ]

    def _score(self, i: int, text: str) -> Score:
        if self._failing and i % 7 == 3:
            return Score(name="short", value=None, outcome=Outcome.EXCEPTION, error="ValueError: no")
        return Score(name="short", value=-float(len(text.encode())), outcome=Outcome.OK)


class Longer:
    """Another version: a function that is gone, one that is new, one with another weight."""

    version = "v2"
    functions: Sequence[Function] = (Function("constant", weight=0.5), Function("long"))

    def score(self, groups: Sequence[GroupCall], *, step: int, split: str) -> list[list[Score]]:
        texts = [text for group in groups for text in group.completions]
        constant = Score(name="constant", value=1.0, outcome=Outcome.OK)
        return [[constant, Score(name="long", value=float(len(text)), outcome=Outcome.OK)] for text in texts]


class FromStepThree:
    """Puts the other version live at the third step."""

    def __init__(self, first: Shorter) -> None:
        self._first, self._second = first, Longer()

    def turn(self, step: int) -> Shorter | Longer:
        return self._first if step < 3 else self._second

    def keep(self, calls: Sequence[GroupCall], scores: Sequence[Sequence[Score]]) -> None:
        pass

    def roll_back(self, error: str) -> bool:
        return False


@pytest.fixture(params=BACKENDS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Backend, Callable[..., JobSpec]]:
    """A backend, and a maker of jobs for it."""
    policy: str = request.param
    model: Path | str = "none"
    emulator: dict[str, object] = {"policy": policy}
    if policy == "trl":
        request.getfixturevalue("cpu")
        model, emulator = request.getfixturevalue("tiny_model"), {}
    if policy == "replay":
        emulator |= {"completions": str(_recorded(tmp_path)), "learning_rate": 4.0}

    def job(**grpo: object) -> JobSpec:
        made = make_job(model, evaluation={"every": 2}, **{"learning_rate": 3e-3, "num_generations": 4, **grpo})
        return made.model_copy(update={"emulator": made.emulator.model_copy(update=emulator)})

    return load_backend("trl" if policy == "trl" else "emulator"), job


def _recorded(folder: Path) -> Path:
    file = folder / "completions.jsonl"
    rows = [{"number": n, "completions": [f"{n}", f"it is {n}", f"well, it must be {n}", "?"]} for n in range(20)]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


def test_steps_come_in_order_with_whole_groups_of_the_runs_examples(
    case: tuple[Backend, Callable[..., JobSpec]], tmp_path: Path
) -> None:
    backend, job = case
    run = make_run(tmp_path, job(), scorer=Shorter())
    backend.train(job(), run)
    assert run.finish() == (Reason.FINISHED, "step 3 of 3")
    found = batches(tmp_path)
    assert [batch.step for batch in found] == [1, 2, 3]
    for batch in found:
        assert [group.example_id for group in batch.groups] == [example.id for example in run.examples(batch.step)]
        assert [group.group_id for group in batch.groups] == [0, 1]
        assert {len(group.rollouts) for group in batch.groups} == {4}


def test_completions_say_how_long_they_are_and_how_they_ended(
    case: tuple[Backend, Callable[..., JobSpec]], tmp_path: Path
) -> None:
    backend, job = case
    backend.train(job(), make_run(tmp_path, job(), scorer=Shorter()))
    rollouts = [rollout for batch in batches(tmp_path) for group in batch.groups for rollout in group.rollouts]
    assert all(rollout.n_tokens >= 1 for rollout in rollouts)
    assert {rollout.finish_reason for rollout in rollouts} <= {"eos", "length"}


def test_advantages_of_a_group_sum_to_zero_and_a_failed_call_leaves_its_group(
    case: tuple[Backend, Callable[..., JobSpec]], tmp_path: Path
) -> None:
    backend, job = case
    backend.train(job(), make_run(tmp_path, job(), scorer=Shorter(failing=True)))
    failed = 0
    for batch in batches(tmp_path):
        for group in batch.groups:
            assert sum(rollout.advantage for rollout in group.rollouts) == pytest.approx(0, abs=1e-6)
            gone = [rollout for rollout in group.rollouts if rollout.scores[0].outcome == "exception"]
            assert all(rollout.reward is None and rollout.advantage == 0.0 for rollout in gone)
            failed += len(gone)
    assert failed == 3


def test_metrics_have_trls_names_at_every_step(case: tuple[Backend, Callable[..., JobSpec]], tmp_path: Path) -> None:
    backend, job = case
    backend.train(job(), make_run(tmp_path, job(), scorer=Shorter()))
    reported = [event for event in metrics(tmp_path) if "loss" in event.metrics]
    assert [event.step for event in reported] == [1, 2, 3]
    wanted = {
        "loss",
        "grad_norm",
        "learning_rate",
        "entropy",
        "reward",
        "reward_std",
        "frac_reward_zero_std",
        "rewards/short/mean",
        "rewards/constant/mean",
        "completions/mean_length",
        "completions/clipped_ratio",
        "step_time",
    }
    for event in reported:
        assert wanted <= event.metrics.keys()


def test_held_out_examples_are_tried_at_the_start_when_due_and_at_the_end(
    case: tuple[Backend, Callable[..., JobSpec]], tmp_path: Path
) -> None:
    backend, job = case
    run = make_run(tmp_path, job(), scorer=Shorter(), held_out=questions(3, start=10))
    backend.train(job(), run)
    tried = [event for event in metrics(tmp_path) if "eval/reward" in event.metrics]
    assert [event.step for event in tried] == [0, 2, 3]
    ids = [[group.example_id for group in batch.groups] for batch in batches(tmp_path, "eval")]
    assert sorted(id for group in ids for id in group) == sorted([10, 11, 12] * 3)


def test_a_stop_ends_within_a_step_and_the_resumed_run_is_the_uninterrupted_one(
    case: tuple[Backend, Callable[..., JobSpec]], tmp_path: Path
) -> None:
    backend, job = case

    def train(folder: Path, attempt: int, stop: Callable[[], bool]) -> Run:
        run = make_run(folder, job(steps=4), attempt=attempt, scorer=Shorter(), stop_requested=stop)
        backend.train(job(steps=4), run)
        return run

    train(tmp_path / "whole", 1, lambda: False)
    stopped = train(tmp_path / "parts", 1, lambda: len(batches(tmp_path / "parts")) >= 2)
    assert (stopped.ended, stopped.step) == (Reason.STOPPED, 2)
    resumed = train(tmp_path / "parts", 2, lambda: False)
    assert (resumed.ended, resumed.step) == (Reason.FINISHED, 4)
    texts = [_texts(tmp_path / name) for name in ("whole", "parts")]
    assert texts[0] == texts[1]
    assert _last_weights(tmp_path / "whole") == _last_weights(tmp_path / "parts")


def _texts(folder: Path) -> list[tuple[int, list[str], list[float]]]:
    return [
        (
            batch.step,
            [r.completion for g in batch.groups for r in g.rollouts],
            [r.advantage for g in batch.groups for r in g.rollouts],
        )
        for batch in batches(folder)
    ]


def _last_weights(folder: Path) -> str:
    return [event.weights for event in events_of(folder) if event.__struct_config__.tag == "checkpoint_saved"][-1]


def test_what_is_rewarded_becomes_more_frequent(case: tuple[Backend, Callable[..., JobSpec]], tmp_path: Path) -> None:
    backend, job = case
    many = job(steps=12, prompts_per_step=4, num_generations=8, lr_scheduler_type="constant", learning_rate=1e-2)
    run = make_run(tmp_path, many, scorer=Shorter(), train=questions(4))
    backend.train(many, run)
    rewards = [event.metrics["reward"] for event in metrics(tmp_path) if "loss" in event.metrics]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 1.0


def test_a_finished_run_that_is_started_again_trains_no_further(
    case: tuple[Backend, Callable[..., JobSpec]], tmp_path: Path
) -> None:
    backend, job = case
    backend.train(job(), make_run(tmp_path, job(), scorer=Shorter()))
    again = make_run(tmp_path, job(), attempt=2, scorer=Shorter())
    backend.train(job(), again)
    assert again.finish()[0] is Reason.FINISHED
    assert len(batches(tmp_path)) == 3


def test_prompts_can_be_tried_on_a_checkpoint(case: tuple[Backend, Callable[..., JobSpec]], tmp_path: Path) -> None:
    backend, job = case
    run = make_run(tmp_path, job(), scorer=Shorter())
    backend.train(job(), run)
    for at in (None, tmp_path / "checkpoints/step-000003"):
        [answers] = backend.generate(job(), at, questions(1), 2)
        assert len(answers) == 2
        assert all(answer.n_tokens >= 1 for answer in answers)


def test_without_temperature_a_prompt_has_one_answer(
    case: tuple[Backend, Callable[..., JobSpec]], tmp_path: Path
) -> None:
    backend, job = case
    greedy = job().model_copy(update={"grpo": job().grpo.model_copy(update={"temperature": 0.0})})
    first = backend.generate(greedy, None, questions(2), 2)
    assert [answers[0].text == answers[1].text for answers in first] == [True, True]
    assert backend.generate(greedy.model_copy(update={"seed": 8}), None, questions(2), 2) == first


def test_the_job_is_checked_before_weights_are_loaded(case: tuple[Backend, Callable[..., JobSpec]]) -> None:
    backend, job = case
    assert backend.check(job()) == []


def test_another_reward_version_scores_from_its_step_on_and_never_an_evaluation_before(
    case: tuple[Backend, Callable[..., JobSpec]], tmp_path: Path
) -> None:
    backend, job = case
    first = Shorter()
    run = make_run(tmp_path, job(steps=4), scorer=first, switch=FromStepThree(first), held_out=questions(2, start=15))
    backend.train(job(steps=4), run)
    assert run.finish()[0] is Reason.FINISHED
    assert [(batch.step, batch.reward_version) for batch in batches(tmp_path)] == [
        (1, "v1"), (2, "v1"), (3, "v2"), (4, "v2"),
    ]  # fmt: skip
    assert {(batch.step, batch.reward_version) for batch in batches(tmp_path, "eval")} == {
        (0, "v1"), (2, "v1"), (4, "v2"),
    }  # fmt: skip
    of_steps = {event.step: event.metrics for event in metrics(tmp_path) if "loss" in event.metrics}
    assert "rewards/short/mean" in of_steps[2] and "rewards/short/mean" not in of_steps[3]
    assert "rewards/long/mean" in of_steps[3] and of_steps[3]["rewards/constant/mean"] == 1.0
    for batch in batches(tmp_path)[2:]:
        for rollout in (rollout for group in batch.groups for rollout in group.rollouts):
            assert rollout.reward == 0.5 + len(rollout.completion)


class Editor:
    """Edits the rewards while it trains: before a step, and the step waits until the trainer has made up its mind."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._shelf = folder, Shelf(folder / "rewards")
        self._told = folder / "versions.jsonl"
        self.first = self.publish("len(c)")
        past = Past(numbers={}, switches={}, rejected={}, failed={})
        self.reload = Reload(self._shelf, past, 0, Journal(self._told), partial(RewardHost, seed=0))
        self.scorer = self.reload.active

    def publish(self, value: str, *, more: str = "") -> str:
        (self._folder / "rewards.py").write_text(f"def score(p, c, e):\n    return {value}\n{more}")
        names = ["score", "more"] if more else ["score"]
        version = build({name: Reward(fn=f"rewards.py:{name}") for name in names}, self._folder)
        self._shelf.publish(version, "edit")
        return version.sha256

    def states(self) -> list[tuple[int, str]]:
        events = read_types(self._told, "version_changed") if self._told.exists() else ()
        return [(event.number, event.state) for event in events if isinstance(event, VersionChanged)]

    def turn(self, step: int) -> RewardHost:
        match step:
            case 2:
                self.publish("-len(c)")
                self._until((2, "staged"))
            case 3:
                self.publish("1 / 0")
                self._until((3, "rejected"))
            case 4:
                self.publish("len(c)", more="def more(p, c, e):\n    return e['number']\n")
                self._until((4, "staged"))
            case 5:
                self._shelf.want(self.first, "rollback")
                self._until((1, "staged"))
            case _:
                pass
        return self.reload.turn(step)

    def keep(self, calls: Sequence[GroupCall], scores: Sequence[Sequence[Score]]) -> None:
        self.reload.keep(calls, scores)

    def roll_back(self, error: str) -> bool:
        return self.reload.roll_back(error)

    def _until(self, state: tuple[int, str]) -> None:
        deadline = time.monotonic() + 30
        while state not in self.states():
            assert time.monotonic() < deadline, (state, self.states())
            time.sleep(0.01)


def test_edits_go_live_are_refused_add_a_reward_and_are_rolled_back(
    case: tuple[Backend, Callable[..., JobSpec]], tmp_path: Path
) -> None:
    backend, job = case
    editor = Editor(tmp_path)
    with editor.reload:
        editor.reload.begin(None)
        run = make_run(tmp_path, job(steps=5), scorer=editor.scorer, switch=editor)
        backend.train(job(steps=5), run)
    assert run.finish()[0] is Reason.FINISHED
    numbers = {version: n for n, version in enumerate(dict.fromkeys(b.reward_version for b in batches(tmp_path)), 1)}
    assert [(batch.step, numbers[batch.reward_version]) for batch in batches(tmp_path)] == [
        (1, 1), (2, 2), (3, 2), (4, 3), (5, 1),
    ]  # fmt: skip
    sign = {1: 1, 2: -1, 3: 1}
    for batch in batches(tmp_path):
        for group in batch.groups:
            for rollout in group.rollouts:
                values = {score.name: score.value for score in rollout.scores}
                expected = {"score": float(sign[numbers[batch.reward_version]] * len(rollout.completion))}
                more = {"more": float(group.example_id)} if batch.step == 4 else {}
                assert values == expected | more
    of_steps = {event.step: event.metrics for event in metrics(tmp_path) if "loss" in event.metrics}
    assert [step for step, found in of_steps.items() if "rewards/more/mean" in found] == [4]
    assert [state for state in editor.states() if state[1] == "active"] == [
        (1, "active"), (2, "active"), (4, "active"), (1, "active"),
    ]  # fmt: skip
