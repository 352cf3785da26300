"""The folder between publishers and the trainer."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.rewards.versions import Shelf, Target, in_words
from tests.rewards.helpers import bundle_of

ONE, TWO = "def score(p, c, example):\n    return 1\n", "def score(p, c, example):\n    return 2\n"


def test_a_published_version_is_the_wanted_one_with_its_sources(tmp_path: Path) -> None:
    shelf, bundle = Shelf(tmp_path / "rewards"), bundle_of(tmp_path / "job", ONE)
    shelf.publish(bundle, "submit")
    assert shelf.target == Target(bundle.sha256, asks=False)
    assert shelf.bundle(bundle.sha256) == bundle


def test_a_proposed_version_is_to_be_prepared_and_not_wanted_until_somebody_says_so(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "rewards")
    one, two = bundle_of(tmp_path / "job", ONE), bundle_of(tmp_path / "job", TWO)
    shelf.publish(one, "submit")
    shelf.publish(two, "edit", asks=True)
    assert (shelf.wanted, shelf.target) == (one.sha256, Target(two.sha256, asks=True))
    shelf.want(two.sha256, "accept")
    assert (shelf.wanted, shelf.proposed, shelf.target) == (two.sha256, None, Target(two.sha256, asks=False))


def test_wanting_another_version_takes_a_proposal_back(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "rewards")
    shelf.publish(bundle_of(tmp_path / "job", ONE), "submit")
    shelf.publish(bundle_of(tmp_path / "job", TWO), "edit", asks=True)
    shelf.want(shelf.wanted, "rollback")
    assert shelf.proposed is None


def test_the_log_tells_who_published_what_and_is_read_on_from_where_one_was(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "rewards")
    shelf.publish(bundle_of(tmp_path / "job", ONE), "submit")
    [(_, offset)] = shelf.publications()
    shelf.refuse("abc", "rewards.py:1: no")
    with (tmp_path / "rewards/published.jsonl").open("a") as log:
        log.write('{"sha256": "torn')
    assert [(line.sha256, line.by, line.error) for line, _ in shelf.publications(offset)] == [
        ("abc", "edit", "rewards.py:1: no")
    ]


def test_a_version_whose_files_were_changed_or_are_gone_is_not_given(tmp_path: Path) -> None:
    shelf, bundle = Shelf(tmp_path / "rewards"), bundle_of(tmp_path / "job", ONE)
    shelf.publish(bundle, "submit")
    (shelf.path(bundle.sha256) / "rewards.py").write_text(TWO)
    with pytest.raises(ValueError, match="have changed since it was written"):
        shelf.bundle(bundle.sha256)
    with pytest.raises(ValueError, match="publish the rewards again"):
        shelf.bundle("0" * 64)


def test_what_happened_to_a_version_in_words() -> None:
    change = {"name": "right", "before": 0.25, "after": 0.5, "rank": 0.9}
    same = {"name": "short", "before": 1.0, "after": 1.0, "rank": 1.0}
    told = {"number": 2, "first_step": None, "error": None, "changes": [change, same], "asks": False}
    assert in_words({**told, "state": "staged"}) == "reward version 2 is ready: mean of right 0.25 → 0.5"
    assert in_words({**told, "state": "staged", "asks": True, "changes": []}) == (
        "reward version 2 waits for `runner reward accept`"
    )
    assert in_words({**told, "state": "active", "first_step": 14}) == "reward version 2 is live at step 14"
    assert in_words({**told, "state": "rejected", "error": "rewards.py:3: no"}) == (
        "reward version 2 refused: rewards.py:3: no"
    )
    assert in_words({**told, "state": "retired"}) == ""
