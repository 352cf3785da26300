"""Rewards edited while a run trains, with every process there is: publisher, trainer, workers."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runner
from runner import api
from runner.queue import publish
from runner.queue.home import Home
from runner.rewards.contract import GroupCall
from runner.rewards.host import RewardHost
from runner.rewards.versions import Shelf
from tests.queue.test_runs import kill_tree, until
from tests.small_job import write_job

REWARDS = """
import time
from helper import FACTOR


def right(prompt, completion, example):
    time.sleep(0.001)
    return FACTOR if completion.endswith(str(example["sum"])) else 0.0


def short(prompt, completion, example):
    return {"score": 1 / (1 + len(completion)), "reason": "shorter is better"}


def loud(prompt, completion, example):
    return float(completion.count("!"))
"""
LONG = {"steps": 100_000, "prompts_per_step": 2, "num_generations": 4}


def rows(home: Path, sql: str, *params: object) -> list[tuple[Any, ...]]:
    """Read with the store's own SQLite: closing a database that another copy of SQLite has open drops its locks."""
    with Home(home).open() as store:
        return store.db.conn.execute(sql, params).fetchall()


class Live:
    """A run that trains until it is told to stop, and its job's files."""

    def __init__(self, home: Path, **sections: Any) -> None:
        long = {"grpo": LONG, "checkpoints": {"every": 20}, "evaluation": {"every": 50}}
        self.home = home
        self.job = write_job(home, rewards=REWARDS, **{**long, **sections})
        self.write("helper.py", "FACTOR = 1.0\n")
        self.run = api.emulate(self.job, home=home, wait=False)

    def write(self, name: str, text: str) -> None:
        (self.job.parent / name).write_text(text)

    def edit(self, name: str, old: str, new: str) -> None:
        before = (self.job.parent / name).read_text()
        assert old in before
        self.write(name, before.replace(old, new))

    def versions(self) -> list[tuple[int, str]]:
        """Number and state of every version so far."""
        _ = self.run.row
        return rows(self.home, "SELECT version, state FROM reward_versions ORDER BY version")

    def until(self, number: int, state: str) -> None:
        until(lambda: (number, state) in self.versions())

    def until_trained(self, steps: int = 3) -> None:
        """That many steps from now on."""
        last = self.run.row.last_step
        until(lambda: self.run.row.last_step >= last + steps)

    def end(self) -> None:
        self.run.cancel()
        assert self.run.wait().state == "cancelled", self.run.detail


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    run = Live(tmp_path)
    run.until_trained()
    yield run
    if not run.run.state.is_final:
        run.end()


def values(live: Live, name: str, number: int) -> set[float]:
    """Every value that the function's scores have under that version."""
    sql = (
        "SELECT DISTINCT value FROM scores JOIN rollouts ON rollouts.id = rollout_id "
        "JOIN reward_versions ON sha256 = reward_version WHERE name = ? AND version = ?"
    )
    return {value for (value,) in rows(live.home, sql, name, number)}


def check_batches(home: Path) -> None:
    """Every batch was scored by one version, and each version from its first step to the next one's."""
    mixed = "SELECT split, step FROM rollouts GROUP BY split, step HAVING count(DISTINCT reward_version) > 1"
    assert rows(home, mixed) == []
    switches = dict(
        rows(
            home,
            "SELECT step, data ->> '$.version' FROM events "
            "WHERE type = 'version_changed' AND data ->> '$.state' = 'active' AND void = 0 ORDER BY id",
        )
    )
    for step, version in rows(home, "SELECT DISTINCT step, reward_version FROM rollouts WHERE split = 'train'"):
        assert version == switches[max(first for first in switches if first <= step)], step


def check_scores(home: Path, folder: Path, at_most: int = 300) -> None:
    """The recorded versions, run again, give every score as it was recorded."""
    shelf = Shelf(folder / "rewards")
    for (version,) in rows(home, "SELECT DISTINCT reward_version FROM rollouts"):
        recorded = rows(
            home,
            "SELECT prompt, completion, columns, (SELECT json_group_object(name, value) FROM scores "
            "WHERE rollout_id = r.id) FROM rollouts r JOIN examples ON examples.id = example_id "
            "WHERE reward_version = ? ORDER BY r.id LIMIT ?",
            version,
            at_most,
        )
        calls = [GroupCall(prompt=p, example=json.loads(c), completions=[text]) for p, text, c, _ in recorded]
        with RewardHost(shelf.path(version), seed=0) as host:
            again = host.score(calls, step=0, split="train")
        assert [{score.name: score.value for score in row} for row in again] == [json.loads(s) for *_, s in recorded]


def test_functions_helpers_weights_and_new_rewards_go_live_while_the_run_trains(live: Live) -> None:
    live.edit("rewards.py", "else 0.0", "else 0.25")
    live.until(2, "active")
    live.edit("helper.py", "1.0", "3.0")
    live.until(3, "active")
    live.edit("job.yaml", "weight: 0.5", "weight: 0.125")
    live.until(4, "active")
    live.edit("job.yaml", "rewards:\n", "rewards:\n  loud: {fn: 'rewards.py:loud', weight: -1}\n")
    live.until(5, "active")
    live.until_trained()
    live.edit("job.yaml", "  short:\n    fn: rewards.py:short\n    weight: 0.125\n", "")
    live.until(6, "active")
    live.until_trained()
    live.end()
    check_batches(live.home)
    check_scores(live.home, live.run.folder)
    assert values(live, "right", 1) <= {0.0, 1.0}
    assert values(live, "right", 3) <= {0.25, 3.0}
    assert (values(live, "loud", 4), values(live, "loud", 5)) == (set(), {0.0})
    assert (values(live, "short", 5) != set(), values(live, "short", 6)) == (True, set())
    assert [state for _, state in live.versions()] == ["retired"] * 5 + ["active"]
    assert "not comparable: rewards edited while running" in live.run.row.digest_note
    steps = {name: [step for step, _ in live.run.metrics(f"rewards/{name}/mean")] for name in ("loud", "short")}
    assert steps["loud"][0] > 1 and steps["short"][-1] < live.run.row.last_step


def test_a_broken_edit_is_told_with_its_line_and_the_old_version_scores_on(live: Live) -> None:
    live.edit("rewards.py", "return FACTOR if", "return FACTOR iff")
    live.until(2, "rejected")
    live.edit("rewards.py", "return FACTOR iff", "return FACTOR / 0 if")
    live.until(3, "rejected")
    live.until_trained()
    assert live.versions()[0] == (1, "active")
    errors = dict(rows(live.home, "SELECT version, error FROM reward_versions WHERE error IS NOT NULL"))
    assert errors[2].startswith("rewards.py:8: rewards.py is no valid Python")
    assert errors[3].startswith("rewards.py:8: right: ZeroDivisionError: ")
    live.edit("rewards.py", "return FACTOR / 0 if", "return FACTOR / 2 if")
    live.until(4, "active")


def test_a_rollback_brings_the_earlier_version_back_and_a_new_edit_replaces_it(live: Live) -> None:
    live.edit("helper.py", "1.0", "3.0")
    live.until(2, "active")
    live.until_trained()
    with live.run.reading() as store:
        assert publish.rollback(live.run.home, store, live.run.id).version == 1
    live.until(1, "active")
    live.until_trained()
    live.edit("helper.py", "3.0", "5.0")
    live.until(3, "active")
    live.until_trained()
    live.end()
    check_batches(live.home)
    check_scores(live.home, live.run.folder)
    assert [version for version, _ in live.versions()] == [1, 2, 3]


def half(prompt: str, completion: str, example: dict[str, Any]) -> float:
    return len(completion) / SCALE


SCALE = 2


def test_a_function_given_in_python_goes_live_under_a_rewards_name(live: Live) -> None:
    sha256 = live.run.update_reward("short", half)
    live.until(2, "active")
    assert runner.update_reward(live.run.id, "long", half, weight=0, home=live.home) != sha256
    live.until(3, "active")
    live.until_trained()
    live.end()
    check_scores(live.home, live.run.folder)
    assert values(live, "short", 2) <= {len(text) / 2 for text in ("10", "4", "it is 4", "it is 10", "no idea")}
    assert values(live, "long", 3) == values(live, "short", 3) != set()
    with pytest.raises(runner.StoreError, match="has cancelled"):
        live.run.update_reward("short", half)


def test_follow_tells_of_new_versions(live: Live) -> None:
    live.edit("helper.py", "1.0", "3.0")
    for progress in live.run.follow():
        if any("reward version 2 is live at step" in alert for alert in progress.alerts):
            break
    else:
        raise AssertionError("the run ended first")


def test_after_the_run_an_edit_is_drift_and_a_rerun_takes_it(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    run = api.emulate(job, home=tmp_path)
    folder = run.home.run(run.id)
    [(live,)] = rows(tmp_path, "SELECT sha256 FROM reward_versions")
    assert publish.drift(folder, live) is None
    source = job.parent / "rewards.py"
    source.write_text(source.read_text().replace("1.0", "2.0"))
    drift = publish.drift(folder, live)
    again = api.rerun(run.id, home=tmp_path)
    [(version,)] = rows(tmp_path, "SELECT sha256 FROM reward_versions WHERE run_id = ?", again.id)
    assert drift is not None and drift.sha256 == version


@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.soak)])
def test_edited_all_the_time_and_killed_in_between_no_batch_mixes_and_no_broken_version_scores(
    tmp_path: Path, seconds: int
) -> None:
    live = Live(tmp_path)
    live.until_trained()
    done = threading.Event()
    editor = threading.Thread(target=edit_all_the_time, args=(live, done))
    editor.start()
    try:
        for _ in range(seconds // 5):
            time.sleep(5)
            assert live.run._started is not None
            kill_tree(live.run._started.supervisor.pid)
            live.run._started.supervisor.wait()
            until(lambda: not live.run.row.state.is_live)
            live.run = api.resume(live.run.id, home=tmp_path, wait=False)
    finally:
        done.set()
        editor.join()
    live.write("helper.py", "FACTOR = 7.0\n")
    live.write("rewards.py", REWARDS)
    until(lambda: values(live, "right", max(version for version, _ in live.versions())) & {7.0})
    live.end()
    check_batches(tmp_path)
    check_scores(tmp_path, live.run.folder, at_most=100)
    sources = Shelf(live.run.folder / "rewards")
    scored = [version for (version,) in rows(tmp_path, "SELECT DISTINCT reward_version FROM rollouts")]
    assert len(scored) >= 3
    assert not any(b"BROKEN" in sources.bundle(version).sources["rewards.py"] for version in scored)
    assert rows(tmp_path, "SELECT count(*) FROM scores WHERE outcome != 'ok'") == [(0,)]
    states = {state for _, state in live.versions()}
    assert "rejected" in states
    assert rows(tmp_path, "SELECT count(*) FROM reward_versions WHERE state = 'active'") == [(1,)]


BREAKS = [
    ("return FACTOR if", "return FACTOR iff"),
    ("return FACTOR if", "return FACTOR / 0 if"),
    ("else 0.0", "else 'nothing'"),
    ("import time\n", "import time\nraise RuntimeError('no')\n"),
]


def edit_all_the_time(live: Live, done: threading.Event) -> None:
    """Saves the two files every 100 ms; one save in three, by chance, breaks them in one of the ways there are."""
    chance = random.Random(5)
    number = 0
    while not done.wait(0.1):
        number += 1
        source = f"# edit {number}\n" + REWARDS
        if chance.random() < 1 / 3:
            old, new = chance.choice(BREAKS)
            source = "# BROKEN\n" + source.replace(old, new)
        live.write("helper.py", f"FACTOR = {number + 10}.0\n")
        live.write("rewards.py", source)
