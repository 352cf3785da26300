from pathlib import Path

import pytest

from runner.journal import events
from runner.journal.log import Journal, read


def metrics(step: int) -> events.MetricsReported:
    return events.MetricsReported(step=step, metrics={"reward": 0.5})


def test_what_is_appended_is_read_back_in_order_with_numbers(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    journal.append(metrics(1))
    journal.append(events.AttemptEnded(step=1, reason="finished"))
    found = [event for event, _ in read(tmp_path / "j.jsonl")]
    assert [(event.seq, events.type_of(event)) for event in found] == [(1, "metrics_reported"), (2, "attempt_ended")]


def test_reading_goes_on_from_an_offset(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    journal.append(metrics(1))
    [(_, offset)] = read(tmp_path / "j.jsonl")
    journal.append(metrics(2))
    [(event, _)] = read(tmp_path / "j.jsonl", offset)
    assert isinstance(event, events.MetricsReported) and event.step == 2


def test_a_torn_last_line_is_left_for_later(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    Journal(path).append(metrics(1))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    assert len(list(read(path))) == 1


def test_a_missing_journal_is_empty(tmp_path: Path) -> None:
    assert list(read(tmp_path / "none.jsonl")) == []


def test_a_failed_write_leaves_whole_lines_only(tmp_path: Path, small_disk: Path) -> None:
    journal = Journal(small_disk / "j.jsonl")
    big = events.AttemptEnded(step=1, reason="finished", detail="x" * 50_000)
    with pytest.raises(OSError, match="No space left"):
        for _ in range(100):
            journal.append(big)
    content = (small_disk / "j.jsonl").read_bytes()
    assert content.endswith(b"\n")
    assert {event.seq for event, _ in read(small_disk / "j.jsonl")} == set(range(1, content.count(b"\n") + 1))
