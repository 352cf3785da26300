"""A run that was out of memory, or whose engine broke, goes on by itself as often as its `retry:` says."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner import api
from runner.journal.states import Reason, State
from runner.queue import local
from tests.small_job import write_job


def held(home: Path, reason: Reason, **sections: object) -> api.RunHandle:
    """A TRL run whose first attempt has ended so."""
    run = api.submit(write_job(home, **sections), backend="trl", home=home)  # type: ignore[arg-type]
    again(run, reason)
    return run


def again(run: api.RunHandle, reason: Reason) -> None:
    with run.home.open() as store:
        claim = store.claim(run.id, host="here", boot_id="boot")
        store.end_attempt(run.id, claim.attempt, outcome=reason, exit_code=1)
        store.transition(run.id, State.HELD, reason, "Tried to allocate 2 GiB")


def goes_on(run: api.RunHandle) -> str:
    with run.home.open() as store:
        return local.resume_by_rule(run.home, store, run.id)


@pytest.mark.parametrize("reason", [Reason.OUT_OF_MEMORY, Reason.ENGINE_FAILED])
def test_it_goes_on_until_the_rule_is_used_up(tmp_path: Path, reason: Reason) -> None:
    run = held(tmp_path, reason, retry={"max": 2})
    for _ in range(2):
        assert goes_on(run).startswith(f"{reason}: starts again in ")
        assert run.state is State.QUEUED
        again(run, reason)
    assert goes_on(run) == ""
    assert run.state is State.HELD


def test_what_was_killed_or_is_not_in_the_rule_is_left_to_people(tmp_path: Path) -> None:
    assert goes_on(held(tmp_path / "a", Reason.LOST)) == ""
    assert goes_on(held(tmp_path / "b", Reason.OUT_OF_MEMORY, retry={"on": ["lost"]})) == ""
