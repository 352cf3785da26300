"""Which reward version scores which batch, with real reward workers and a journal."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from runner.grpo.guards import RewardFailure
from runner.grpo.reload import Past, Reload
from runner.grpo.run import Run
from runner.grpo.types import Completion, Example, Group, Scored
from runner.journal.events import VersionChanged
from runner.journal.folder import RunFolder
from runner.journal.log import Journal, read_types
from runner.rewards.bundle import build
from runner.rewards.host import RewardHost, RewardLoadError
from runner.rewards.versions import By, Shelf
from runner.spec.model import JobSpec, Reward


def value(number: float) -> str:
    return f"def score(prompt, completion, example):\n    return {number} * len(completion)\n"


class Trainer:
    """An attempt that scores the same two groups at every step."""

    def __init__(self, folder: Path, reload: Reload, run: Run, journal: Path) -> None:
        self.folder, self.reload, self.run = folder, reload, run
        self.shelf = Shelf(folder / "rewards")
        self._journal = journal

    def publish(self, source: str, by: By = "edit", *, asks: bool = False, **options: Any) -> str:
        return publish(self.folder, source, by, asks=asks, **options)

    def step(self, step: int, texts: tuple[str, ...] = ("a", "bb")) -> Scored:
        return self.run.score(groups(texts), step=step)

    def evaluate(self, step: int) -> Scored:
        return self.run.score(groups(("a", "bb")), step=step, split="eval")

    def told(self) -> list[tuple[int, str, int | None]]:
        """Number, state, first step of every record of this attempt."""
        return [(event.number, event.state, event.first_step) for event in self.events()]

    def events(self) -> list[VersionChanged]:
        return [event for event in read_types(self._journal, "version_changed") if isinstance(event, VersionChanged)]

    def until(self, number: int, state: str) -> VersionChanged:
        """The record, once it is there."""
        found: list[VersionChanged] = []

        def is_there() -> bool:
            found[:] = [event for event in self.events() if (event.number, event.state) == (number, state)]
            return bool(found)

        wait_for(is_there)
        return found[-1]


def wait_for(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)


def publish(folder: Path, source: str, by: By = "edit", *, asks: bool = False, **options: Any) -> str:
    """Publishes a version whose one reward is `rewards.py:score`; its sha256."""
    job = folder / "job"
    job.mkdir(parents=True, exist_ok=True)
    (job / "rewards.py").write_text(dedent(source))
    rewards = options["rewards"] if "rewards" in options else {"score": Reward(fn="rewards.py:score", **options)}
    bundle = build(rewards, job)
    Shelf(folder / "rewards").publish(bundle, by, asks=asks)
    return bundle.sha256


def groups(texts: tuple[str, ...]) -> list[Group]:
    made = tuple(Completion(text=text, n_tokens=1, finish="eos") for text in texts)
    return [Group(example=Example(id=i, prompt="p", columns={"n": i}), prompt="p", completions=made) for i in range(2)]


@contextmanager
def attempt(folder: Path, number: int = 1, step: int = 0, *, resumed: int | None = None) -> Iterator[Trainer]:
    where = RunFolder(folder)
    past = Past.read(where)
    journal = Journal(where.journal(number))
    job = JobSpec.model_validate(
        {"model": "m", "dataset": {"path": "d"}, "rewards": {"score": {"fn": "rewards.py:score"}}}
    )
    with Reload(Shelf(where.rewards), past, step, journal, partial(RewardHost, seed=0)) as reload:
        run = Run(
            job=job,
            folder=folder,
            train=[],
            held_out=[],
            scorer=reload.active,
            switch=reload,
            journal=journal,
            stop_requested=lambda: False,
            emulated=True,
        )
        reload.begin(resumed)
        yield Trainer(folder, reload, run, where.journal(number))


def test_an_edit_goes_live_at_the_next_step_and_never_in_an_evaluation(tmp_path: Path) -> None:
    one = publish(tmp_path, value(1), "submit")
    with attempt(tmp_path) as trainer:
        assert trainer.step(1).version == one
        two = trainer.publish(value(2))
        trainer.until(2, "staged")
        assert trainer.step(1).version == one, "another batch of the same step"
        assert trainer.evaluate(1).version == one
        scored = trainer.step(2)
        assert (scored.version, scored.rewards) == (two, [2.0, 4.0, 2.0, 4.0])
        assert trainer.evaluate(2).version == two
        assert trainer.told() == [(1, "active", 0), (2, "staged", None), (1, "retired", None), (2, "active", 2)]


def test_a_staged_version_tells_how_its_scores_differ(tmp_path: Path) -> None:
    publish(tmp_path, value(1), "submit")
    with attempt(tmp_path) as trainer:
        trainer.step(1)
        trainer.step(2, texts=("ccc", "dddd"))
        trainer.publish(value(-1))
        staged = trainer.until(2, "staged")
        [change] = staged.changes
        assert (change.name, change.before, change.after, change.rank) == ("score", 3.5, -3.5, -1.0)
        assert staged.reference == {"score": -1.5}, "of the first batch"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (
            "X = 1\nY = 1 / 0\ndef score(p, c, example):\n    return 1\n",
            r"rewards\.py:2: ZeroDivisionError: division by zero",
        ),
        ("def score(p, c, example):\n    return example['m']\n", r"rewards\.py:2: score: KeyError: 'm'"),
        ("def score(p, c, example):\n    return 'text'\n", r"score: .*text"),
    ],
)
def test_a_version_at_fault_is_refused_with_its_line_and_the_old_one_goes_on(
    tmp_path: Path, source: str, error: str
) -> None:
    one = publish(tmp_path, value(1), "submit")
    with attempt(tmp_path) as trainer:
        trainer.step(1)
        trainer.publish(source)
        refused = trainer.until(2, "rejected")
        assert re.match(error, refused.error or "")
        assert trainer.step(2).version == one
        two = trainer.publish(value(2))
        trainer.until(3, "staged")
        assert trainer.step(3).version == two


def test_batches_go_on_while_a_version_that_hangs_is_tried(tmp_path: Path) -> None:
    one = publish(tmp_path, value(1), "submit")
    with attempt(tmp_path) as trainer:
        trainer.step(1)
        trainer.publish("import time\ndef score(p, c, example):\n    time.sleep(60)\n", timeout=1)
        step = 1
        while not any(event.state == "rejected" for event in trainer.events()):
            step += 1
            assert trainer.step(step).version == one
        assert step > 5
        assert "no result after 1 s" in (trainer.until(2, "rejected").error or "")


def test_what_waits_for_a_word_is_tried_and_goes_live_when_somebody_says_so(tmp_path: Path) -> None:
    one = publish(tmp_path, value(1), "submit")
    with attempt(tmp_path) as trainer:
        trainer.step(1)
        two = trainer.publish(value(2), asks=True)
        assert trainer.until(2, "staged").asks
        assert trainer.step(2).version == one
        trainer.shelf.want(two, "accept")
        assert trainer.step(3).version == two


def test_a_version_that_another_one_overtakes_is_retired_without_having_been_live(tmp_path: Path) -> None:
    publish(tmp_path, value(1), "submit")
    with attempt(tmp_path) as trainer:
        trainer.step(1)
        trainer.publish(value(2))
        trainer.until(2, "staged")
        three = trainer.publish(value(3))
        trainer.until(3, "staged")
        assert trainer.step(2).version == three
        assert trainer.told()[1:] == [
            (2, "staged", None), (2, "retired", None), (3, "staged", None), (1, "retired", None), (3, "active", 2),
        ]  # fmt: skip


def test_an_edit_that_is_taken_back_before_the_switch_leaves_the_live_version_alone(tmp_path: Path) -> None:
    one = publish(tmp_path, value(1), "submit")
    with attempt(tmp_path) as trainer:
        trainer.step(1)
        trainer.publish(value(2))
        trainer.until(2, "staged")
        trainer.publish(value(1))
        trainer.until(2, "retired")
        assert trainer.step(2).version == one


def test_an_earlier_version_comes_back_under_its_number_with_its_faults(tmp_path: Path) -> None:
    one = publish(tmp_path, "def score(p, c, example):\n    return 1 / (len(c) - 3)\n", "submit")
    with attempt(tmp_path) as trainer:
        trainer.step(1)
        trainer.publish(value(2))
        trainer.until(2, "staged")
        trainer.step(2)
        trainer.step(3, texts=("ccc", "d", "e"))
        trainer.shelf.want(one, "rollback")
        trainer.until(1, "staged")
        assert trainer.step(4).version == one
        assert trainer.told()[-1] == (1, "active", 4)


def test_weights_and_functions_are_part_of_a_version(tmp_path: Path) -> None:
    publish(tmp_path, value(1), "submit")
    with attempt(tmp_path) as trainer:
        trainer.step(1)
        both = value(1) + "def other(p, c, example):\n    return 10\n"
        trainer.publish(
            both, rewards={"score": Reward(fn="rewards.py:score", weight=0.5), "other": Reward(fn="rewards.py:other")}
        )
        trainer.until(2, "staged")
        scored = trainer.step(2)
        assert (scored.names, scored.weights, scored.rewards[:2]) == (("score", "other"), (0.5, 1.0), [10.5, 11.0])
        trainer.publish(both, rewards={"other": Reward(fn="rewards.py:other")})
        trainer.until(3, "staged")
        scored = trainer.step(3)
        assert (scored.names, scored.rewards[:2]) == (("other",), [10.0, 10.0])


FAILS_ON_X = "def score(p, c, example):\n    return 1 / (c != 'x')\n"


def test_a_version_that_fails_right_after_its_switch_is_rolled_back_and_the_run_goes_on(tmp_path: Path) -> None:
    one = publish(tmp_path, value(1), "submit")
    with attempt(tmp_path) as trainer:
        trainer.step(1)
        two = trainer.publish(FAILS_ON_X)
        trainer.until(2, "staged")
        assert trainer.step(2).version == two
        assert trainer.step(3, texts=("x", "x")).version == two
        assert "ZeroDivisionError" in (trainer.until(2, "rejected").error or "")
        assert trainer.evaluate(3).version == two, "no switch before an evaluation"
        assert trainer.step(4, texts=("x", "x")).version == one
        assert trainer.told()[-2:] == [(2, "rejected", 4), (1, "active", 4)]
        three = trainer.publish(value(3))
        trainer.until(3, "staged")
        assert trainer.step(5).version == three


def test_the_version_a_run_begins_with_ends_it_when_it_fails(tmp_path: Path) -> None:
    publish(tmp_path, FAILS_ON_X, "submit")
    with attempt(tmp_path) as trainer:
        trainer.step(1)
        with pytest.raises(RewardFailure):
            trainer.step(2, texts=("x", "x"))


def test_a_version_that_was_good_for_long_ends_the_run_when_it_fails(tmp_path: Path) -> None:
    publish(tmp_path, value(1), "submit")
    with attempt(tmp_path) as trainer:
        trainer.step(1)
        trainer.publish(FAILS_ON_X)
        trainer.until(2, "staged")
        trainer.step(2)
        with pytest.raises(RewardFailure):
            trainer.step(12, texts=("x", "x"))


def test_the_fix_of_a_version_that_failed_goes_live_instead_of_the_one_before(tmp_path: Path) -> None:
    publish(tmp_path, value(1), "submit")
    with attempt(tmp_path) as trainer:
        trainer.step(1)
        trainer.publish(FAILS_ON_X)
        trainer.until(2, "staged")
        trainer.step(2, texts=("x", "x"))
        fix = trainer.publish(value(3))
        trainer.until(3, "staged")
        assert trainer.step(3).version == fix
        assert (1, "active", 3) not in trainer.told()


def test_the_first_version_must_load(tmp_path: Path) -> None:
    publish(tmp_path, "X = 1 / 0\n" + value(1), "submit")
    with pytest.raises(RewardLoadError), attempt(tmp_path):
        pass


# Resume


def live_at(trainer: Trainer, *steps: int) -> list[str]:
    return [trainer.step(step).version for step in steps]


def test_recorded_switches_are_replayed_and_not_decided_again(tmp_path: Path) -> None:
    one = publish(tmp_path, value(1), "submit")
    with attempt(tmp_path) as trainer:
        trainer.step(1)
        two = trainer.publish(value(2))
        trainer.until(2, "staged")
        trainer.step(3)
        three = trainer.publish(value(3))
        trainer.until(3, "staged")
        trainer.step(5)
    four = publish(tmp_path, value(4))
    with attempt(tmp_path, number=2, step=2, resumed=2) as trainer:
        assert live_at(trainer, 3, 4) == [two, two], "in the attempt before, it went live at step 3"
        trainer.until(4, "staged")
        assert live_at(trainer, 5) == [three], "what is wanted now waits for the recorded switches"
        assert live_at(trainer, 6) == [four]
        assert [entry for entry in trainer.told() if entry[1] == "active"] == [
            (2, "active", 3), (3, "active", 5), (4, "active", 6),
        ]  # fmt: skip
    with attempt(tmp_path, number=3, step=4, resumed=4) as trainer:
        assert trainer.evaluate(4).version == two
        assert live_at(trainer, 5, 6, 7) == [three, four, four]
    with attempt(tmp_path, number=4) as trainer:
        assert live_at(trainer, 1, 2, 3, 5, 6) == [one, one, two, three, four]
        assert trainer.told()[0] == (1, "active", 0)


def test_a_roll_back_is_replayed_too(tmp_path: Path) -> None:
    one = publish(tmp_path, value(1), "submit")
    with attempt(tmp_path) as trainer:
        trainer.step(1)
        two = trainer.publish(FAILS_ON_X)
        trainer.until(2, "staged")
        trainer.step(2)
        trainer.step(3, texts=("x", "x"))
        trainer.step(4)
    with attempt(tmp_path, number=2, step=2, resumed=2) as trainer:
        assert trainer.step(3, texts=("x", "x")).version == two
        assert trainer.step(4).version == one
        assert trainer.told() == [(2, "rejected", 4), (1, "active", 4)]
    with attempt(tmp_path, number=3, step=2, resumed=2) as trainer:
        assert trainer.step(3).version == two, "this time the batch is another one"
        assert trainer.step(4).version == one
        assert trainer.told() == [(2, "rejected", 4), (1, "active", 4)]


def test_a_version_that_failed_before_the_checkpoint_does_not_score_behind_it(tmp_path: Path) -> None:
    one = publish(tmp_path, value(1), "submit")
    with attempt(tmp_path) as trainer:
        trainer.step(1)
        two = trainer.publish(FAILS_ON_X)
        trainer.until(2, "staged")
        trainer.step(2)
        trainer.step(3, texts=("x", "x"))
    with attempt(tmp_path, number=2, step=3, resumed=3) as trainer:
        assert trainer.evaluate(3).version == two, "as it was before"
        assert trainer.step(4).version == one
        assert trainer.told() == [(1, "active", 4)]


def test_a_version_that_was_refused_is_not_tried_again_by_the_next_attempt(tmp_path: Path) -> None:
    one = publish(tmp_path, value(1), "submit")
    with attempt(tmp_path) as trainer:
        trainer.step(1)
        trainer.publish("def score(p, c, example):\n    return 1 / 0\n")
        trainer.until(2, "rejected")
    with attempt(tmp_path, number=2, step=1, resumed=1) as trainer:
        assert live_at(trainer, 2) == [one]
        three = trainer.publish(value(3))
        trainer.until(3, "staged")
        assert live_at(trainer, 3) == [three]
        assert [number for number, *_ in trainer.told()] == [3, 1, 3]


def test_a_version_staged_but_not_yet_live_is_staged_again_under_its_number(tmp_path: Path) -> None:
    publish(tmp_path, value(1), "submit")
    with attempt(tmp_path) as trainer:
        trainer.step(1)
        two = trainer.publish(value(2))
        trainer.until(2, "staged")
    with attempt(tmp_path, number=2, step=1, resumed=1) as trainer:
        trainer.step(2)
        trainer.until(2, "staged")
        assert live_at(trainer, 3) == [two]


def test_every_version_is_measured_by_the_first_batch_of_the_run_also_after_a_resume(tmp_path: Path) -> None:
    publish(tmp_path, value(1), "submit")
    with attempt(tmp_path) as trainer:
        trainer.step(1)
    with attempt(tmp_path, number=2, step=1, resumed=1) as trainer:
        trainer.step(2, texts=("long one", "longer one"))
        trainer.publish(value(2))
        assert trainer.until(2, "staged").reference == {"score": 3.0}


def test_files_that_make_no_version_are_recorded_once(tmp_path: Path) -> None:
    publish(tmp_path, value(1), "submit")
    with attempt(tmp_path) as trainer:
        trainer.shelf.refuse("abc", "rewards.py:3: rewards.py is no valid Python: invalid syntax")
        refused = trainer.until(2, "rejected")
        assert (refused.version, (refused.error or "")[:12]) == ("abc", "rewards.py:3")
        trainer.shelf.refuse("def", "rewards.py:4: no")
        trainer.until(3, "rejected")
    with attempt(tmp_path, number=2, step=1, resumed=1) as trainer:
        trainer.shelf.refuse("ghi", "rewards.py:5: no")
        trainer.until(4, "rejected")
        assert trainer.told() == [(4, "rejected", None)]
