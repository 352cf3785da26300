"""Edited files become versions in the run folder; no trainer is at work here."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from runner import api
from runner.queue.publish import Publisher, drift
from runner.rewards.versions import Publication, Shelf
from tests.small_job import REWARDS, write_job


class Desk:
    """A queued run of a small job, and the publisher of its edits."""

    def __init__(self, home: Path, **sections: object) -> None:
        self.job = write_job(home, **sections)
        self.run = api.submit(self.job, backend="emulator", home=home)
        self.folder = self.run.home.run(self.run.id)
        self.shelf = Shelf(self.folder.rewards)
        self.first = self.shelf.wanted
        self.publisher = Publisher(self.folder)
        self.rest()

    def write(self, text: str, name: str = "rewards.py") -> None:
        (self.job.parent / name).write_text(text)

    def rest(self, seconds: float = 0.3) -> None:
        """Looks as the publisher's thread does, for longer than files have to be quiet."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.publisher.look()
            time.sleep(0.01)

    def log(self) -> list[Publication]:
        return [line for line, _ in self.shelf.publications()][1:]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_files_that_say_the_same_publish_nothing(desk: Desk) -> None:
    desk.write(REWARDS)
    desk.job.write_text(desk.job.read_text() + "# a comment\n")
    desk.rest()
    assert desk.log() == []


def test_an_edit_is_published_with_its_sources(desk: Desk) -> None:
    desk.write(REWARDS.replace("1.0", "2.0"))
    desk.rest()
    [line] = desk.log()
    assert (line.by, line.asks, line.error, line.sha256) == ("edit", False, None, desk.shelf.wanted)
    assert b"2.0" in desk.shelf.bundle(desk.shelf.wanted).sources["rewards.py"]


def test_a_weight_in_the_job_file_is_an_edit_and_other_sections_are_not(desk: Desk) -> None:
    desk.job.write_text(desk.job.read_text().replace("steps: 20", "steps: 21"))
    desk.rest()
    assert desk.log() == []
    desk.job.write_text(desk.job.read_text().replace("weight: 0.5", "weight: 0.25"))
    desk.rest()
    assert [function.weight for function in desk.shelf.bundle(desk.shelf.wanted).functions] == [1.0, 0.25]


def test_files_saved_together_are_one_version(desk: Desk) -> None:
    desk.write("FACTOR = 2.0\n", "helper.py")
    desk.publisher.look()
    time.sleep(0.03)
    desk.publisher.look()
    desk.write("from helper import FACTOR\n" + REWARDS.replace("1.0", "FACTOR"))
    desk.rest()
    assert [line.error for line in desk.log()] == [None]
    assert sorted(desk.shelf.bundle(desk.shelf.wanted).sources) == ["helper.py", "rewards.py"]


def test_an_edit_of_a_helper_in_a_package_is_an_edit(desk: Desk) -> None:
    (desk.job.parent / "pkg").mkdir()
    desk.write("", "pkg/__init__.py")
    desk.write("FACTOR = 2.0\n", "pkg/helper.py")
    desk.write("from pkg.helper import FACTOR\n" + REWARDS.replace("1.0", "FACTOR"))
    desk.rest()
    desk.write("FACTOR = 3.0\n", "pkg/helper.py")
    desk.rest()
    assert len(desk.log()) == 2
    assert desk.shelf.bundle(desk.shelf.wanted).sources["pkg/helper.py"] == b"FACTOR = 3.0\n"


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("return 1.0 if", "return 1.0 iff", "rewards.py:3: rewards.py is no valid Python"),
        ("def right(prompt, completion, example)", "def right(prompt)", "rewards.py:2: right takes 1 argument"),
        ("def right(", "def wrong(", "rewards.py:1: rewards.py defines no right"),
    ],
)
def test_files_that_make_no_version_are_refused_with_their_line_once(
    desk: Desk, old: str, new: str, error: str
) -> None:
    desk.write(REWARDS.replace(old, new))
    desk.rest()
    desk.write(REWARDS.replace(old, new))
    desk.rest()
    [line] = desk.log()
    assert line.error is not None and line.error.startswith(error.split(" takes")[0])
    assert desk.shelf.wanted == desk.first


def test_a_job_file_that_can_not_be_read_is_refused_with_its_line(desk: Desk) -> None:
    desk.job.write_text(desk.job.read_text().replace("seed", "sead") + "sead: 1\n")
    desk.rest()
    [line] = desk.log()
    assert line.error is not None and line.error.startswith("job.yaml:") and "sead" in line.error


def test_the_edit_after_a_refused_one_is_published_and_taking_it_back_is_nothing(desk: Desk) -> None:
    desk.write("def right(:\n")
    desk.rest()
    desk.write(REWARDS)
    desk.rest()
    assert [line.error is None for line in desk.log()] == [False]
    desk.write(REWARDS.replace("1.0", "2.0"))
    desk.rest()
    assert [line.error is None for line in desk.log()] == [False, True]


def test_files_that_never_come_to_rest_are_read_all_the_same(desk: Desk) -> None:
    deadline = time.monotonic() + 1.5
    number = 0
    while time.monotonic() < deadline:
        number += 1
        desk.write(REWARDS.replace("1.0", f"{number}.0"))
        desk.rest(0.03)
    assert 1 <= len(desk.log()) <= 4


def test_reload_ask_proposes_and_reload_off_publishes_nothing(desk: Desk) -> None:
    desk.job.write_text(desk.job.read_text() + "reload: 'off'\n")
    desk.write(REWARDS.replace("1.0", "2.0"))
    desk.rest()
    assert desk.log() == []
    shown = drift(desk.folder, desk.first)
    assert shown is not None and shown.sha256 not in (None, desk.first)
    desk.job.write_text(desk.job.read_text().replace("'off'", "ask"))
    desk.rest()
    assert (desk.shelf.wanted, desk.shelf.proposed) == (desk.first, shown.sha256)


def test_a_rollback_is_not_undone_by_files_that_did_not_change(desk: Desk) -> None:
    desk.write(REWARDS.replace("1.0", "2.0"))
    desk.rest()
    desk.shelf.want(desk.first, "rollback")
    desk.write(REWARDS.replace("1.0", "2.0"))
    desk.rest()
    assert desk.shelf.wanted == desk.first
    desk.publisher.close()
    desk.publisher = Publisher(desk.folder)
    desk.rest()
    assert desk.shelf.wanted == desk.first


def test_an_edit_made_while_nobody_looked_is_published_by_the_next_publisher(desk: Desk) -> None:
    desk.publisher.close()
    desk.write(REWARDS.replace("1.0", "2.0"))
    desk.publisher = Publisher(desk.folder)
    desk.rest()
    assert [line.by for line in desk.log()] == ["edit"]


def test_of_two_publishers_one_is_at_work(desk: Desk) -> None:
    second = Publisher(desk.folder)
    desk.write(REWARDS.replace("1.0", "2.0"))
    for _ in range(30):
        second.look()
        time.sleep(0.01)
    assert desk.log() == []
    desk.publisher.close()
    for _ in range(30):
        second.look()
        time.sleep(0.01)
    assert len(desk.log()) == 1


def test_a_deleted_file_keeps_the_last_good_version(desk: Desk) -> None:
    (desk.job.parent / "rewards.py").unlink()
    desk.rest()
    assert desk.shelf.wanted == desk.first
    assert [bool(line.error) for line in desk.log()] == [True]


def test_the_log_is_one_json_object_a_line(desk: Desk) -> None:
    lines = (desk.folder.rewards / "published.jsonl").read_text().splitlines()
    assert [json.loads(line)["by"] for line in lines] == ["submit"]


def test_a_job_with_packages_is_published_again_only_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_CACHE", str(tmp_path / "cache"))
    desk = Desk(tmp_path, packages=[])
    desk.job.write_text(desk.job.read_text() + "# a comment\n")
    desk.rest()
    assert (desk.log(), drift(desk.folder, desk.first)) == ([], None)
    assert desk.shelf.bundle(desk.first).locked == []


def test_a_run_in_this_process_follows_edited_limits(tmp_path: Path) -> None:
    job = write_job(tmp_path, grpo={"steps": 100_000}, checkpoints={"every": 1000}, evaluation={"every": 100_000})
    run = api.emulate(job, home=tmp_path, wait=False)
    job.write_text(job.read_text() + "limits: {max_tokens: 1}\n")
    run.wait()
    assert (run.row.state, run.row.reason) == ("timed_out", "token_limit")
