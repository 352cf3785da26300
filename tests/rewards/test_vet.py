"""A new version is tried on completions that were scored before: what is refused, and what is only told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from runner.rewards.contract import GroupCall, Outcome, Score
from runner.rewards.host import RewardHost
from runner.rewards.vet import Abandoned, Change, Refused, Stored, Verdict, spearman, store, vet
from tests.rewards.helpers import version_of

TEXTS = ["1", "22", "333", "4444", "55555"]


def ok(value: float, name: str = "score") -> Score:
    return Score(name=name, value=value, outcome=Outcome.OK)


def stored(*values: float) -> Stored:
    """The texts as one group with the live version's scores."""
    call = GroupCall(prompt="p", example={"answer": "1"}, completions=TEXTS, finish=["eos"] * 5)
    return Stored([call], [[ok(value)] for value in values])


def tried(
    folder: Path,
    source: str,
    on: Stored | None = None,
    reference: Stored | None = None,
    *,
    strict: bool = True,
    is_wanted: Callable[[], bool] = lambda: True,
    **options: Any,
) -> Verdict:
    with RewardHost(version_of(folder, source, **options), seed=0) as host:
        on = on or stored(1, 2, 3, 4, 5)
        return vet(host, on, reference, step=7, strict=strict, is_wanted=is_wanted)


def test_other_scores_are_told_as_means_and_rank_correlation(tmp_path: Path) -> None:
    verdict = tried(tmp_path, "def score(p, c, example):\n    return -2 * len(c)\n", reference=stored(0, 0, 0, 0, 0))
    assert verdict.changes == [Change(name="score", before=3.0, after=-6.0, rank=-1.0)]
    assert verdict.reference == {"score": -6.0}


def test_an_error_where_there_was_none_is_refused_with_its_line(tmp_path: Path) -> None:
    source = "def score(p, c, example):\n    if len(c) == 4:\n        raise ValueError('four')\n    return 1.0\n"
    with pytest.raises(Refused, match=r"^rewards\.py:3: score: ValueError: four, on a completion that was scored"):
        tried(tmp_path, source)


@pytest.mark.parametrize("rubbish", ["'text'", "float('nan')", "[1, 2]"])
def test_rubbish_is_refused(tmp_path: Path, rubbish: str) -> None:
    with pytest.raises(Refused):
        tried(tmp_path, f"def score(p, c, example):\n    return {rubbish}\n")


def test_a_hang_is_refused_after_one_deadline(tmp_path: Path) -> None:
    source = "import time\n\ndef score(p, c, example):\n    time.sleep(60)\n"
    with pytest.raises(Refused, match=r"^rewards\.py:4: score: no result after 0\.3 s"):
        tried(tmp_path, source, timeout=0.3)


def test_none_does_not_apply_and_is_no_fault(tmp_path: Path) -> None:
    verdict = tried(tmp_path, "def score(p, c, example):\n    return None\n")
    assert verdict.changes == [Change(name="score", before=3.0, after=None, rank=None)]


def test_an_error_where_the_live_version_failed_too_is_no_fault(tmp_path: Path) -> None:
    before = stored(1, 2, 3, 4, 5)
    failed = Score(name="score", value=None, outcome=Outcome.EXCEPTION, error="ValueError: four")
    scores = [row if i != 3 else [failed] for i, row in enumerate(before.scores)]
    source = "def score(p, c, example):\n    if len(c) == 4:\n        raise ValueError('four')\n    return 1.0\n"
    assert tried(tmp_path, source, Stored(before.calls, scores)).changes[0].after == 1.0


def test_a_function_that_is_new_may_not_fail_and_one_that_is_gone_is_told(tmp_path: Path) -> None:
    other = Stored(stored(1).calls, [[ok(0.5, "other")] for _ in TEXTS])
    verdict = tried(tmp_path, "def score(p, c, example):\n    return 1\n", other)
    assert verdict.changes == [
        Change(name="other", before=0.5, after=None, rank=None),
        Change(name="score", before=None, after=1.0, rank=None),
    ]
    with pytest.raises(Refused):
        tried(tmp_path, "def score(p, c, example):\n    return 1 / 0\n", other)


def test_an_error_on_the_reference_completions_is_refused_as_well(tmp_path: Path) -> None:
    rare = GroupCall(prompt="p", example={}, completions=["rare"], finish=["eos"])
    with pytest.raises(Refused, match="KeyError"):
        tried(
            tmp_path,
            "def score(p, c, example):\n    return len(example['answer'])\n",
            reference=Stored([rare], [[ok(1)]]),
        )


def test_a_version_that_was_live_before_comes_back_with_its_faults(tmp_path: Path) -> None:
    assert tried(tmp_path, "def score(p, c, example):\n    return 1 / 0\n", strict=False).changes[0].after is None


def test_nobody_waits_any_more_and_the_trial_ends(tmp_path: Path) -> None:
    looks = iter([True, False])
    with pytest.raises(Abandoned):
        tried(tmp_path, "def score(p, c, example):\n    return 1\n", is_wanted=lambda: next(looks))


def test_a_stored_batch_keeps_the_first_completions_and_cuts_the_last_group() -> None:
    calls = [GroupCall(prompt=str(i), example={}, completions=TEXTS, finish=["eos"] * 5) for i in range(4)]
    kept = store(calls, [[ok(i)] for i in range(20)], most=7)
    assert [(call.prompt, list(call.completions)) for call in kept.calls] == [("0", TEXTS), ("1", ["1", "22"])]
    assert [row[0].value for row in kept.scores] == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("x", "y", "rho"),
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 2, 3], [1, 3, 2, 4], 4.5 / (4.5 * 5) ** 0.5),
        ([1, 1, 1], [1, 2, 3], None),
        ([1, None, 3], [5, 9, 6], 1.0),
        ([1], [1], None),
    ],
)
def test_rank_correlation(x: Sequence[float | None], y: Sequence[float | None], rho: float | None) -> None:
    found = spearman(x, y)
    assert found is None if rho is None else found == pytest.approx(rho)
