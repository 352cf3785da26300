"""When a run that was cut off is started again."""

from __future__ import annotations

from runner.journal.states import Reason
from runner.queue.retry import Again, GivenUp, decide, seconds
from runner.spec.model import Retry
from runner.store.rows import AttemptRow


def attempts(*ends: tuple[str, int | None]) -> list[AttemptRow]:
    """Attempts that ended so and had gone on from that step."""
    return [
        AttemptRow(
            run_id="a-1", n=n, handle=None, host=None, boot_id=None, resumed_step=step, journal="", journal_offset=99,
            outcome=outcome, exit_code=None, started_at=0.0, ended_at=1.0,
        )
        for n, (outcome, step) in enumerate(ends, start=1)
    ]  # fmt: skip


def pauses(policy: Retry, *ends: tuple[str, int | None], checkpoint: int | None = None) -> float | str | None:
    match decide(Reason.LOST, "killed", attempts(*ends), checkpoint, policy):
        case Again(pause, _):
            return pause
        case GivenUp(detail):
            return detail
        case None:
            return None


def test_the_pause_doubles_with_each_start_that_got_no_further_and_then_it_is_given_up() -> None:
    policy = Retry(max=3)
    assert pauses(policy, ("lost", None)) == 10
    assert pauses(policy, ("lost", None), ("lost", None)) == 20
    assert pauses(policy, ("lost", None), ("lost", None), ("lost", None)) == 40
    assert pauses(policy, *[("lost", None)] * 4) == (
        "lost 4 times in a row from the start, without a new checkpoint: killed"
    )


def test_the_pause_is_at_most_ten_minutes() -> None:
    assert pauses(Retry(max=100, backoff="1m"), *[("lost", None)] * 20) == 600


def test_a_new_checkpoint_begins_the_count_anew() -> None:
    policy = Retry(max=1)
    assert pauses(policy, ("lost", None), ("lost", 5), ("lost", 10), checkpoint=15) == 10
    assert pauses(policy, ("lost", None), ("lost", 5), ("lost", 5), checkpoint=5) == (
        "lost 2 times in a row at step 5, without a new checkpoint: killed"
    )


def test_an_attempt_that_never_began_got_no_further() -> None:
    never = [AttemptRow(**{**vars_of(attempts(("lost", None))[0]), "journal_offset": 0, "n": n}) for n in (1, 2, 3)]
    assert isinstance(decide(Reason.LOST, "", never, None, Retry(max=2)), GivenUp)


def vars_of(row: AttemptRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in AttemptRow.__slots__}


def test_a_stop_by_a_person_is_no_loss() -> None:
    assert pauses(Retry(max=1), ("lost", None), ("stopped", None), ("lost", None)) == 10


def test_only_the_causes_that_the_job_names_are_tried_again() -> None:
    policy = Retry(on=["out_of_memory"])
    assert pauses(policy, ("lost", None)) is None
    assert isinstance(decide(Reason.OUT_OF_MEMORY, "", attempts(("out_of_memory", None)), None, policy), Again)
    assert pauses(Retry(max=0), ("lost", None)) is None


def test_durations_have_units() -> None:
    assert [seconds(text) for text in ("90s", "30m", "12h", "2d")] == [90, 1800, 43200, 172800]
