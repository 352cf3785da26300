"""`runner prompt`: what a run's model answers, beside what it began from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cli.kit import as_json, cli, command, environment, make_job


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one emulated run on recorded completions."""
    home = tmp_path_factory.mktemp("home")
    make_job(home)
    assert cli("emulate", "colours", "--no-checks", cwd=home).returncode == 0
    return home


def test_base_and_tuned_answer_side_by_side(home: Path) -> None:
    done = cli("prompt", "colours", "--example", "0", "--example", "2", "--temperature", "0", cwd=home)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1] == "> example 0: Say red."
    assert [part.split() for part in lines[2].split("│")] == [["base", "3", "tokens"], ["tuned", "3", "tokens"]]
    left, _, right = lines[3].partition("│")
    assert (left.strip(), right.strip()) == ("It is red.", "It is red.")
    assert "base: recorded completions, all equally likely; tuned: colours-1 at step 6" in done.stderr
    assert "greedy, at most 512 tokens an answer" in done.stderr


def test_an_example_of_the_dataset_brings_its_own_prompt(home: Path) -> None:
    found = as_json(cli("prompt", "colours@4", "--example", "2", "-n", "3", "--json", cwd=home))
    assert (found["run"], found["step"]) == ("colours-1", 4)
    [answer] = found["answers"]
    assert (answer["prompt"], answer["example"]) == ("Say blue.", 2)
    assert [len(answer[which]) for which in ("base", "tuned")] == [3, 3]
    assert (
        found["answers"]
        == as_json(cli("prompt", "colours@4", "--example", "2", "-n", "3", "--json", cwd=home))["answers"]
    )


def test_a_prompt_comes_from_stdin(home: Path) -> None:
    asked = subprocess.run(
        command("prompt", "colours", "--no-base", "--json"),
        input="Say green.\n", cwd=home, env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    [answer] = as_json(asked)["answers"]
    assert (answer["prompt"], answer["base"], len(answer["tuned"])) == ("Say green.", [], 1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["colours@3", "x"], "colours-1 has no checkpoint of step 3; kept: 4, 6"),
        (["colours@last", "x"], "behind the @ stands a checkpoint's step, as colours@50"),
        (["colours", "--example", "99"], "colours-1: its dataset has no example 99; it has 0 to 7"),
        (["colours", "Say mauve."], "have no recorded completions; the first is 'Say mauve.'"),
        (["nobody", "x"], "nobody"),
        (["colours", "  "], "what to ask is missing"),
    ],
)
def test_what_can_not_be_asked_is_told(home: Path, arguments: list[str], told: str) -> None:
    done = cli("prompt", *arguments, cwd=home)
    assert done.returncode == 2
    assert told in done.stderr
