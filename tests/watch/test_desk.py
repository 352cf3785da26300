"""What happens when a job file comes, changes, goes, or is wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runner.journal.states import Reason, State
from runner.store import queries
from runner.store.errors import StoreUnavailable
from tests.small_job import REWARDS
from tests.watch.kit import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_new_job_is_submitted_once_its_file_has_settled(folder: Folder) -> None:
    folder.write()
    folder.look()
    assert folder.runs() == []
    folder.look(after=0.1)
    assert folder.runs() == []
    folder.look(after=0.3)
    assert folder.runs() == [("sums-1", "queued")]


def test_a_file_whose_writer_has_closed_it_is_read_at_once(folder: Folder) -> None:
    path = folder.write()
    folder.desk.look({str(path)})
    assert folder.runs() == [("sums-1", "queued")]


def test_a_job_is_also_a_file_in_the_folder_itself(folder: Folder) -> None:
    path = folder.write("deep")
    text = path.read_text()
    for name in ("data.jsonl", "completions.jsonl", "rewards.py"):
        (path.parent / name).rename(folder.jobs / name)
    path.unlink()
    for name in ("a.yaml", "b.yml"):
        (folder.jobs / name).write_text(text)
    folder.settle()
    assert sorted(folder.runs()) == [("a-1", "queued"), ("b-1", "queued")]


def test_a_job_below_the_depth_of_the_scan_is_left_alone(folder: Folder) -> None:
    (folder.jobs / "examples").mkdir()
    folder.write("deep").parent.rename(folder.jobs / "examples" / "deep")
    folder.settle()
    assert (folder.runs(), folder.states()) == ([], {})


def test_saving_again_or_changing_a_comment_or_the_rewards_starts_nothing(folder: Folder) -> None:
    path = folder.write()
    folder.settle()
    path.write_text("# a comment\n" + path.read_text())
    (path.parent / "rewards.py").write_text(REWARDS.replace("1.0", "2.0"))
    folder.settle()
    os.utime(path)
    folder.settle()
    assert folder.runs() == [("sums-1", "queued")]


def test_a_half_written_file_is_read_again_before_it_is_called_invalid(folder: Folder) -> None:
    path = folder.write()
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 3] + "\nrewards: {")
    for _ in range(7):
        folder.look(after=0.4)
    assert (folder.states(), folder.runs()) == ({}, [])
    path.write_text(whole)
    folder.settle()
    assert (folder.states(), folder.runs()) == ({"sums": "valid"}, [("sums-1", "queued")])


def test_a_bad_file_is_shown_with_its_place_and_affects_nobody_else_and_a_fix_clears_it(folder: Folder) -> None:
    folder.write("good")
    bad = folder.write("bad")
    right = bad.read_text()
    bad.write_text(right.replace("num_generations", "num_generation"))
    folder.settle()
    assert folder.states() == {"good": "valid", "bad": "invalid"}
    assert folder.runs() == [("good-1", "queued")]
    status = json.loads((folder.path / ".runner/status/bad.json").read_text())
    [finding] = [item for item in status["findings"] if item["code"] == "unknown-field"][:1]
    assert finding["line"] > 0 and "num_generations" in finding["hint"]
    [said] = [said for said in folder.said if said["event"] == "invalid"]
    assert said["job"] == "bad" and said["at"].startswith("jobs/bad/job.yaml:")
    bad.write_text(right)
    folder.settle()
    assert folder.states() == {"good": "valid", "bad": "valid"}
    assert folder.runs() == [("good-1", "queued"), ("bad-1", "queued")]


def test_a_bad_edit_leaves_the_queued_run_of_the_last_good_one(folder: Folder) -> None:
    path = folder.write()
    folder.settle()
    path.write_text("model: [")
    folder.settle()
    assert (folder.states(), folder.runs()) == ({"sums": "invalid"}, [("sums-1", "queued")])


def test_a_bad_edit_leaves_the_running_run_alone(folder: Folder) -> None:
    path = folder.write()
    folder.settle()
    folder.begin("sums-1")
    path.write_text("model: [")
    folder.settle(30)
    assert (folder.states(), folder.runs()) == ({"sums": "invalid"}, [("sums-1", "running")])


def test_a_job_whose_data_come_later_is_checked_again(folder: Folder) -> None:
    path = folder.write()
    data = path.parent / "data.jsonl"
    data.rename(folder.path / "away.jsonl")
    folder.settle()
    assert folder.states() == {"sums": "invalid"} and "data.jsonl" in folder.error("sums")
    (folder.path / "away.jsonl").rename(data)
    folder.settle()
    assert (folder.states(), folder.runs()) == ({"sums": "valid"}, [("sums-1", "queued")])


def test_a_reward_that_does_not_parse_is_told_before_anything_is_started(folder: Folder) -> None:
    path = folder.write()
    (path.parent / "rewards.py").write_text("def right(:\n")
    folder.settle()
    assert (folder.states(), folder.runs()) == ({"sums": "invalid"}, [])


def test_an_edit_while_it_waits_takes_its_place_in_the_queue(folder: Folder) -> None:
    folder.write("first")
    folder.settle()
    folder.write("second")
    folder.settle()
    folder.write("first", seed=1)
    folder.settle()
    assert folder.runs() == [("first-1", "superseded"), ("second-1", "queued"), ("first-2", "queued")]
    assert [run.id for run in queries.queue(folder.store)] == ["first-2", "second-1"]


def test_edits_while_it_runs_leave_one_pending_run_and_the_newest_wins(folder: Folder) -> None:
    folder.write()
    folder.settle()
    folder.begin("sums-1")
    for seed in (1, 2, 3):
        folder.write(seed=seed)
        folder.settle()
    assert folder.runs() == [
        ("sums-1", "running"),
        ("sums-2", "superseded"),
        ("sums-3", "superseded"),
        ("sums-4", "queued"),
    ]


def test_an_edit_that_is_taken_back_leaves_nothing_pending(folder: Folder) -> None:
    folder.write()
    folder.settle()
    folder.begin("sums-1")
    folder.write(seed=1)
    folder.settle()
    folder.write()
    folder.settle()
    assert folder.runs() == [("sums-1", "running"), ("sums-2", "superseded")]


def test_a_revision_whose_place_was_taken_before_it_began_runs_when_it_comes_back(folder: Folder) -> None:
    for seed in (0, 1, 0):
        folder.write(seed=seed)
        folder.settle()
    assert folder.runs() == [("sums-1", "superseded"), ("sums-2", "superseded"), ("sums-3", "queued")]


def test_after_its_end_a_job_runs_again_only_when_it_has_changed_even_for_another_watch(folder: Folder) -> None:
    folder.write()
    folder.settle()
    folder.finish("sums-1")
    folder.restart()
    folder.settle()
    assert folder.runs() == [("sums-1", "succeeded")]
    folder.write(seed=1)
    folder.settle()
    assert folder.runs() == [("sums-1", "succeeded"), ("sums-2", "queued")]


def test_a_new_priority_acts_on_the_run_that_waits(folder: Folder) -> None:
    folder.write()
    folder.settle()
    folder.write(priority=5)
    folder.settle()
    assert folder.runs() == [("sums-1", "queued")]
    assert folder.store.run("sums-1").priority == 5


def test_a_file_that_is_away_for_a_moment_is_not_deleted(folder: Folder) -> None:
    path = folder.write()
    folder.settle()
    path.rename(folder.path / "kept")
    folder.look(after=5)
    (folder.path / "kept").rename(path)
    folder.settle(30)
    assert folder.runs() == [("sums-1", "queued")]


def test_ten_seconds_after_its_file_is_deleted_a_waiting_run_is_cancelled(folder: Folder) -> None:
    path = folder.write()
    folder.settle()
    text = path.read_text()
    path.unlink()
    folder.look()
    folder.look(after=9)
    assert folder.runs() == [("sums-1", "queued")]
    folder.look(after=2)
    assert folder.runs() == [("sums-1", "cancelled")]
    assert folder.why("sums-1") == (Reason.SPEC_DELETED, "its job file is gone")
    assert (folder.states(), list((folder.path / ".runner/status").iterdir())) == ({}, [])
    path.write_text(text)
    folder.settle()
    assert folder.runs() == [("sums-1", "cancelled"), ("sums-2", "queued")]


def test_a_job_deleted_while_no_watch_was_there_is_cancelled_by_the_next(folder: Folder) -> None:
    path = folder.write()
    folder.write("other")
    folder.settle()
    path.unlink()
    folder.restart()
    folder.settle(12)
    assert dict(folder.runs()) == {"sums-1": "cancelled", "other-1": "queued"}


def test_too_many_files_gone_at_once_cancel_nothing(folder: Folder) -> None:
    paths = [folder.write(f"job{i}") for i in range(6)]
    folder.settle()
    for path in paths[:4]:
        path.unlink()
    folder.settle(60)
    assert {state for _, state in folder.runs()} == {"queued"}
    assert folder.states() == {**{f"job{i}": "missing" for i in range(4)}, "job4": "valid", "job5": "valid"}
    assert [said["count"] for said in folder.said if said["event"] == "files_missing"] == [4]


def test_few_files_gone_at_once_are_a_wish(folder: Folder) -> None:
    paths = [folder.write(f"job{i}") for i in range(6)]
    folder.settle()
    for path in paths[:3]:
        path.unlink()
    folder.settle(12)
    assert [state for _, state in sorted(folder.runs())] == ["cancelled"] * 3 + ["queued"] * 3


def test_a_folder_that_is_missing_cancels_nothing_and_goes_on_when_it_is_back(folder: Folder) -> None:
    folder.write()
    folder.settle()
    folder.jobs.rename(folder.path / "gone")
    for _ in range(20):
        folder.look(after=2)
    assert folder.runs() == [("sums-1", "queued")]
    assert len([said for said in folder.said if said["event"] == "folder_unavailable"]) == 1
    (folder.path / "gone").rename(folder.jobs)
    folder.settle()
    folder.write(seed=1)
    folder.settle()
    assert folder.runs() == [("sums-1", "superseded"), ("sums-2", "queued")]


def test_a_folder_that_is_replaced_by_an_empty_one_cancels_nothing(folder: Folder) -> None:
    folder.write()
    folder.settle()
    folder.jobs.rename(folder.path / "old")
    folder.jobs.mkdir()
    folder.settle(60)
    assert (folder.runs(), folder.states()) == ([("sums-1", "queued")], {"sums": "missing"})


def test_a_renamed_job_keeps_the_run_that_is_running(folder: Folder) -> None:
    path = folder.write("before")
    folder.settle()
    folder.begin("before-1")
    path.parent.rename(folder.jobs / "after")
    folder.settle(30)
    assert (folder.runs(), folder.states()) == ([("before-1", "running")], {"after": "valid"})
    folder.restart()
    folder.settle(30)
    assert folder.runs() == [("before-1", "running")]


def test_a_renamed_job_waits_under_its_new_name(folder: Folder) -> None:
    path = folder.write("before")
    folder.settle()
    path.parent.rename(folder.jobs / "after")
    folder.settle(30)
    assert folder.runs() == [("before-1", "superseded"), ("after-1", "queued")]
    assert folder.why("before-1")[1] == "renamed to after"


def test_a_job_with_a_name_inside_stays_the_same_job_wherever_its_file_is(folder: Folder) -> None:
    path = folder.write("somewhere")
    path.write_text("name: mine\n" + path.read_text())
    folder.settle()
    path.parent.rename(folder.jobs / "elsewhere")
    folder.settle(30)
    assert (folder.runs(), folder.states()) == ([("mine-1", "queued")], {"mine": "valid"})


def test_of_two_files_with_one_name_the_first_has_it_even_for_another_watch(folder: Folder) -> None:
    first = folder.write("z-first")
    first.write_text("name: mine\n" + first.read_text())
    folder.settle()
    second = folder.write("a-second", seed=1)
    second.write_text("name: mine\n" + second.read_text())
    folder.settle()
    assert folder.states() == {"mine": "valid", "a-second": "invalid"}
    assert folder.error("a-second") == "mine is the name of jobs/z-first/job.yaml"
    folder.restart()
    folder.settle()
    assert folder.runs() == [("mine-1", "queued")]
    first.unlink()
    folder.settle(30)
    assert folder.states() == {"mine": "valid"}
    assert folder.runs() == [("mine-1", "superseded"), ("mine-2", "queued")]


def test_equal_jobs_under_two_names_are_two_jobs(folder: Folder) -> None:
    folder.write("a")
    folder.write("b")
    folder.settle()
    assert folder.runs() == [("a-1", "queued"), ("b-1", "queued")]


def test_the_file_that_closes_a_circle_of_jobs_is_invalid(folder: Folder) -> None:
    folder.write("a")
    folder.settle()
    folder.write("b", after=["a"])
    folder.settle()
    folder.write("a", after=["b"])
    folder.settle()
    assert folder.states() == {"a": "invalid", "b": "valid"}
    assert folder.error("a") == "a would wait for itself"


def test_what_is_no_job_file_is_refused_with_a_reason_or_ignored(folder: Folder) -> None:
    outside = folder.path.parent / f"{folder.path.name}-outside.yaml"
    outside.write_text("model: x")
    (folder.jobs / "linked.yaml").symlink_to(outside)
    os.mkfifo(folder.jobs / "pipe.yaml")
    (folder.jobs / "huge.yaml").write_text("# " + "x" * 300_000)
    (folder.jobs / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name in (".hidden.yaml", "a.yaml~", ".a.yaml.swp", "4913", "a.yaml.tmp", "notes.txt", "#a.yaml#"):
        (folder.jobs / name).write_text("model: [")
    (folder.jobs / "folder.yaml").mkdir()
    folder.settle()
    assert folder.states() == {"linked": "invalid", "pipe": "invalid", "huge": "invalid", "binary": "invalid"}
    assert folder.error("pipe") == "not a regular file"
    assert "leads out" in folder.error("linked") and "256 KiB" in folder.error("huge")


def test_a_link_inside_the_home_is_followed_and_an_edit_of_its_target_is_seen(folder: Folder) -> None:
    path = folder.write()
    target = folder.path / "target.yaml"
    path.rename(target)
    path.symlink_to(target)
    folder.settle()
    target.write_text(target.read_text() + "seed: 1\n")
    folder.settle()
    assert folder.runs() == [("sums-1", "superseded"), ("sums-2", "queued")]


def test_editors_save_in_many_ways_and_each_is_one_edit(folder: Folder) -> None:
    path = folder.write()
    folder.settle()
    text = path.read_text()
    folder.begin("sums-1")
    path.rename(path.with_name("job.yaml~"))  # vim
    folder.look(after=0.1)
    path.write_text(text + "seed: 1\n")
    folder.settle(12)
    swap = path.with_name(".job.yaml.swp")  # write beside, then rename
    swap.write_text(text + "seed: 2\n")
    swap.replace(path)
    folder.settle(12)
    assert folder.runs() == [("sums-1", "running"), ("sums-2", "superseded"), ("sums-3", "queued")]


def test_a_held_run_is_nobodys_business_of_the_scan(folder: Folder) -> None:
    path = folder.write()
    folder.settle()
    folder.finish("sums-1", Reason.STOPPED, State.HELD)
    os.utime(path)
    folder.settle(30)
    assert folder.runs() == [("sums-1", "held")]


def test_what_a_full_disk_kept_from_the_queue_gets_there_at_the_next_look(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(new: object) -> list[str]:
        raise StoreUnavailable("database or disk is full")

    for name in ("first", "second"):
        folder.write(name)
    with monkeypatch.context() as full, pytest.raises(StoreUnavailable):
        full.setattr(folder.store, "submit_all", refuse)
        folder.settle()
    assert not folder.desk.is_settled
    assert folder.runs() == []
    folder.look()
    assert folder.runs() == [("first-1", "queued"), ("second-1", "queued")]
    folder.settle()
    assert folder.states() == {"first": "valid", "second": "valid"}
