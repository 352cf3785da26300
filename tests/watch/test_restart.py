"""What another watch, another boot and another release find of the folder and its runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner import api
from runner.queue import local
from tests.watch.kit import Folder, until


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_run_that_a_reboot_has_cut_off_is_started_again(folder: Folder) -> None:
    folder.write()
    folder.settle()
    folder.begin("sums-1")
    folder.store.db.conn.execute("UPDATE attempts SET boot_id = 'of the boot before'")
    folder.vanish("sums-1")
    folder.restart()
    folder.settle()
    folder.keeper.look()
    assert folder.runs() == [("sums-1", "queued")]
    assert folder.why("sums-1")[1] == "starts again in 10 s (1 of 2 without progress): the machine was restarted"


def test_a_bad_edit_and_another_watch_and_the_runs_of_its_last_good_version_are_still_its(folder: Folder) -> None:
    path = folder.write()
    folder.settle()
    path.write_text("model: [")
    folder.settle()
    folder.restart()
    folder.settle()
    assert (folder.states(), folder.runs()) == ({"sums": "invalid"}, [("sums-1", "queued")])
    path.unlink()
    folder.settle(12)
    assert (folder.states(), folder.runs()) == ({}, [("sums-1", "cancelled")])


def test_an_upgrade_that_computes_other_revisions_runs_nothing_again(folder: Folder) -> None:
    path = folder.write()
    folder.settle()
    folder.finish("sums-1")
    for table in ("runs", "jobs"):
        folder.store.db.conn.execute(f"UPDATE {table} SET revision = 'of an older runner'")
    folder.restart()
    folder.settle()
    assert folder.runs() == [("sums-1", "succeeded")]
    path.write_text(path.read_text() + "seed: 1\n")
    folder.settle()
    assert folder.runs() == [("sums-1", "succeeded"), ("sums-2", "queued")]


def test_the_end_of_a_run_with_many_records_is_made_while_the_watch_goes_on(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MANY_ROLLOUTS", 100)
    run = api.emulate(folder.write(), home=folder.path, wait=False)
    assert run.supervisor is not None
    run.supervisor.wait()
    until(lambda: not folder.keeper.look())
    ended = folder.store.run(run.id)
    assert ended.state == "succeeded" and ended.digest is not None
    assert [said["event"] for said in folder.said if said.get("state") == "succeeded"] == ["run"]
