"""`runner reward history`, `rollback`, `accept`, and what the terminal says of an edit."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from tests.cli.kit import JOB, REWARDS, as_json, cli, command, environment, make_job

ENDLESS = JOB.replace("steps: 6", "steps: 100000").replace("emulator: {", "emulator: {steps: 100000, ")
SLOW = "import time\n" + REWARDS.replace(
    "    return len(completion)", "    time.sleep(0.01)\n    return len(completion)"
)


class Terminal:
    """A run in the foreground of another process, and its job's folder."""

    def __init__(self, home: Path, job: str) -> None:
        self.home = home
        self.folder = make_job(home, job=job, rewards=SLOW)
        with (home / "stderr").open("w") as stderr:
            self.process = subprocess.Popen(
                command("emulate", "colours"), cwd=home, env=environment(), stdout=subprocess.DEVNULL, stderr=stderr
            )

    @property
    def stderr(self) -> str:
        return (self.home / "stderr").read_text()

    def edit(self, old: str, new: str) -> None:
        path = self.folder / "rewards.py"
        path.write_text(path.read_text().replace(old, new))

    def reward(self, *args: str) -> Any:
        return as_json(cli("reward", *args, "--json", cwd=self.home))

    def states(self) -> list[str]:
        return [version["state"] for version in self.reward("history", "colours")]


def until(holds: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Terminal]]:
    started: list[Terminal] = []

    def start(job: str = ENDLESS) -> Terminal:
        started.append(Terminal(tmp_path, job))
        until(lambda: "/100000  reward" in started[0].stderr)
        return started[0]

    yield start
    for terminal in started:
        terminal.process.terminate()
        terminal.process.wait()


def test_an_edit_is_told_and_listed_and_rolled_back(start: Callable[..., Terminal]) -> None:
    terminal = start()
    terminal.edit('{"score": 0.0', '{"score": -1.0')
    until(lambda: "reward version 2 is live at step" in terminal.stderr)
    terminal.edit("-1.0", "-1.0.0")
    until(lambda: "refused: rewards.py:3: " in terminal.stderr)
    listed = cli("reward", "history", "colours", "--diff", cwd=terminal.home).stdout
    assert "means over the same completions" in listed and "live from step" in listed
    assert "rewards.py:3: rewards.py is no valid Python" in listed
    assert '+    return 1.0 if example["word"] in completion else {"score": -1.0' in listed
    done = cli("reward", "rollback", "colours", cwd=terminal.home)
    assert done.stdout == "colours-1: reward version 1\n", done.stderr
    until(
        lambda: (
            "reward version 1 is live" in cli("logs", "colours", cwd=terminal.home).stdout.split("version 2 is live")[1]
        )
    )
    assert terminal.states() == ["active", "retired", "rejected"]
    refused = cli("reward", "rollback", "colours", "--to", "3", cwd=terminal.home)
    assert refused.returncode == 2 and "was refused: rewards.py:3" in refused.stderr
    history = terminal.reward("history", "colours")
    assert [len(version["live_from"]) for version in history] == [2, 1, 0]
    assert history[0]["reference"].keys() == {"right", "long"} == history[1]["reference"].keys()


def test_with_reload_ask_a_version_waits_for_accept(start: Callable[..., Terminal]) -> None:
    terminal = start(ENDLESS + "reload: ask\n")
    nothing = cli("reward", "accept", "colours", cwd=terminal.home)
    assert nothing.returncode == 2 and "waits for a word" in nothing.stderr
    terminal.edit('{"score": 0.0', '{"score": -1.0')
    until(lambda: "reward version 2 waits for `runner reward accept`" in terminal.stderr)
    assert terminal.states() == ["active", "staged"]
    assert terminal.reward("accept", "colours")["version"] == 2
    until(lambda: terminal.states() == ["retired", "active"])


def test_rewards_that_came_and_went_while_it_trained_are_in_the_report_and_in_exports(
    start: Callable[..., Terminal],
) -> None:
    terminal = start()
    job = terminal.folder / "job.yaml"
    job.write_text(ENDLESS.replace("  long: {", "  size: {").replace("weight: 0}", "weight: 0.25}"))
    until(lambda: "reward version 2 is live at step" in terminal.stderr)
    first = int(re.findall(r"reward version 2 is live at step (\d+)", terminal.stderr)[0])
    until(lambda: re.search(r"size", cli("completions", "colours", cwd=terminal.home).stdout))
    terminal.process.terminate()
    terminal.process.wait()
    report = cli("show", "colours", cwd=terminal.home).stdout
    assert re.search(rf"train +size .*× 0\.25, from step {first}\n", report)
    assert re.search(rf"train +long .*not optimised, until step {first - 1}\n", report)
    shown = as_json(cli("show", "colours", "--json", cwd=terminal.home))
    rewards = [(reward["name"], reward["weight"], reward["is_live"]) for reward in shown["rewards"]]
    assert rewards == [("right", 1.0, True), ("size", 0.25, True), ("long", 0.0, False)]
    cli("export", "colours", "--completions", "all.parquet", cwd=terminal.home)
    rows = parquet.read_table(terminal.home / "all.parquet").to_pylist()
    sizes = {row["step"]: row["rewards/size"] for row in rows if row["rewards/size"] is not None}
    assert min(sizes) == first and all((row["rewards/long"] is None) == (row["step"] >= first) for row in rows)


def test_an_edit_after_the_run_shows_as_drift_and_is_not_rolled_back(tmp_path: Path) -> None:
    folder = make_job(tmp_path)
    assert cli("emulate", "colours", cwd=tmp_path).returncode == 0
    assert as_json(cli("show", "colours", "--json", cwd=tmp_path))["drift"] is None
    (folder / "rewards.py").write_text(REWARDS.replace("1.0", "2.0"))
    shown = cli("show", "colours", cwd=tmp_path).stdout
    assert "the job's files make another version now" in shown and "`runner rerun colours-1` takes them" in shown
    done = cli("reward", "rollback", "colours", "--to", "1", cwd=tmp_path)
    assert done.returncode == 2 and "runner rerun colours-1" in done.stderr
