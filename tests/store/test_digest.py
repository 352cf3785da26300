"""Equal runs have equal digests; anything a run did differently shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from runner.journal import events
from runner.store.digest import digest
from runner.store.store import Store
from tests.store.builders import batch, metrics, rollout, saved, score, seen, started, submission, write_journal

Change = Callable[[events.Event], events.Event]


def journal_of(changed: Change = lambda event: event) -> list[events.Event]:
    group = [rollout("five", 1.0, score(1.0, reason="right")), rollout("six", 0.1 + 0.2)]
    written = [started(), seen(), batch(1, *group), metrics(1), saved(1), batch(2), metrics(2)]
    return [changed(event) for event in written]


def digest_of(home: Path, written: list[events.Event], job: str = "countdown") -> tuple[str, str]:
    with Store.open(home / "runner.db") as store:
        run = store.submit(submission(job))
        write_journal(store, run, written)
        store.ingest(run)
        return digest(store, run)


def test_the_digest_is_a_sha256_that_does_not_depend_on_the_run_or_the_clock(tmp_path: Path) -> None:
    first, note = digest_of(tmp_path / "a", journal_of())
    assert (len(first), note) == (64, "")
    assert digest_of(tmp_path / "b", journal_of(), job="other") == (first, "")


def test_a_run_that_was_lost_and_resumed_has_the_digest_of_one_that_was_not(tmp_path: Path) -> None:
    expected = digest_of(tmp_path / "a", journal_of())
    with Store.open(tmp_path / "b" / "runner.db") as store:
        run = store.submit(submission())
        write_journal(store, run, [*journal_of()[:5], batch(2, rollout("never mind", 0.0))])
        write_journal(store, run, [started(2, resumed_step=1), seen(), *journal_of()[5:]], attempt=2)
        store.ingest(run)
        assert digest(store, run) == expected


def on_batch(change: Callable[[events.RolloutRow], events.RolloutRow]) -> Change:
    def changed(event: events.Event) -> events.Event:
        if not isinstance(event, events.BatchScored):
            return event
        group = event.groups[0]
        rollouts = [change(group.rollouts[0]), *group.rollouts[1:]]
        return msgspec.structs.replace(event, groups=[msgspec.structs.replace(group, rollouts=rollouts)])

    return changed


def on(kind: type[events.Event], **values: object) -> Change:
    return lambda event: msgspec.structs.replace(event, **values) if isinstance(event, kind) else event


def with_score(**values: object) -> Change:
    return on_batch(lambda r: msgspec.structs.replace(r, scores=[msgspec.structs.replace(r.scores[0], **values)]))


def with_rollout(**values: object) -> Change:
    return on_batch(lambda r: msgspec.structs.replace(r, **values))


@pytest.mark.parametrize(
    "change",
    [
        with_rollout(completion="five!"),
        with_rollout(n_tokens=9),
        with_rollout(finish_reason="length"),
        with_rollout(reward=1.0000000000000002),
        with_rollout(reward=None),
        with_rollout(advantage=0.25),
        with_score(value=0.3),
        with_score(outcome="none"),
        with_score(reason="wrong"),
        with_score(name="other"),
        on(events.BatchScored, reward_version="v2"),
        on(events.MetricsReported, metrics={"reward": 0.5}),
        on(events.CheckpointSaved, weights="other"),
    ],
)
def test_every_difference_in_what_was_done_changes_the_digest(tmp_path: Path, change: Change) -> None:
    assert digest_of(tmp_path / "a", journal_of(change)) != digest_of(tmp_path / "b", journal_of())


@pytest.mark.parametrize(
    "change",
    [
        with_score(seconds=99.0),
        with_score(error="at 0x7f01", output="printed"),
        on(events.AttemptStarted, pid=5),
        on(events.CheckpointSaved, bytes=7, path="elsewhere"),
    ],
)
def test_what_depends_on_the_machine_is_not_in_the_digest(tmp_path: Path, change: Change) -> None:
    assert digest_of(tmp_path / "a", journal_of(change)) == digest_of(tmp_path / "b", journal_of())


def test_timing_metrics_are_not_in_the_digest(tmp_path: Path) -> None:
    slow = on(
        events.MetricsReported, metrics={"reward": 0.1, "time/step": 9.0, "step_time": 9.0, "eval/time/step": 1.0}
    )
    fast = on(events.MetricsReported, metrics={"reward": 0.1})
    assert digest_of(tmp_path / "a", journal_of(slow)) == digest_of(tmp_path / "b", journal_of(fast))


@pytest.mark.parametrize("outcome", ["timeout", "killed"])
def test_a_run_with_a_time_out_says_that_it_can_not_be_compared(tmp_path: Path, outcome: str) -> None:
    _, note = digest_of(tmp_path, journal_of(with_score(value=None, outcome=outcome)))
    assert note == "not comparable: a time-out"


def test_a_run_whose_rewards_changed_says_that_it_can_not_be_compared(tmp_path: Path) -> None:
    _, note = digest_of(tmp_path, [*journal_of(), batch(3, version="v2")])
    assert note == "not comparable: rewards edited while running"
