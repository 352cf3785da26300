"""`reward test` and `reward rescore`: rewards tried before training, and scored again beside it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.cli.kit import REWARDS, as_json, cli, command, environment, make_job, write_lines

FLAWED = """\
import itertools
counter = itertools.count()

def picky(prompt, completion, example):
    return 1 / completion.count("a")

def counting(prompt, completion, example):
    return next(counter)

def flat(prompt, completion, example):
    return 1.0
"""


def test_a_job_is_tried_on_what_its_emulator_would_write(tmp_path: Path) -> None:
    make_job(tmp_path)
    done = cli("reward", "test", "colours", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = as_json(done)
    right, long = told["functions"]
    assert told["origin"] == "emulated"
    assert (right["name"], right["calls"], right["mean"], right["unsteady"]) == ("right", 32, 0.5, 0)
    assert right["columns"] == ["word"] and long["columns"] == []
    assert right["spread"] == 0.5
    first = told["completions"][0]
    assert (first["prompt"], first["completion"]) == ("Say red.", "It is red.")
    assert first["scores"]["right"]["value"] == 1.0


def test_a_bare_file_is_tried_on_given_completions_and_its_faults_are_told(tmp_path: Path) -> None:
    (tmp_path / "flawed.py").write_text(FLAWED)
    write_lines(tmp_path / "tries.jsonl", [{"prompt": "p", "completions": ["abc", "xyz", "aa"]}])
    done = cli("reward", "test", "flawed.py", "--completions", "tries.jsonl", cwd=tmp_path)
    assert done.returncode == 1
    assert "ZeroDivisionError: division by zero" in done.stdout
    assert 'return 1 / completion.count("a")' in done.stdout
    assert "counting: 3 calls gave something else the second time" in done.stdout
    assert "flat: says the same of every completion" in done.stdout
    assert "picky: says" not in done.stdout
    assert "failed: 1 call of 9" in done.stderr


def test_one_function_of_a_file_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "flawed.py").write_text(FLAWED)
    write_lines(tmp_path / "tries.jsonl", [{"completion": "abc"}])
    done = cli("reward", "test", "flawed.py:flat", "--completions", "tries.jsonl", "--json", cwd=tmp_path)
    assert [item["name"] for item in as_json(done)["functions"]] == ["flat"]


def test_a_bare_file_without_completions_says_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "flawed.py").write_text(FLAWED)
    done = cli("reward", "test", "flawed.py", cwd=tmp_path)
    assert done.returncode == 2
    assert "--completions FILE" in done.stderr


def test_the_datasets_own_completions_come_first(tmp_path: Path) -> None:
    folder = make_job(tmp_path)
    rows = [{"word": word, "completion": text, "split": "train"} for word, text in (("red", "red!"), ("blue", "no"))]
    write_lines(folder / "data.jsonl", rows)
    told = as_json(cli("reward", "test", "colours", "--json", cwd=tmp_path))
    assert told["origin"] == "dataset"
    assert [row["scores"]["right"]["value"] for row in told["completions"]] == [1.0, 0.0]


def test_debug_calls_in_this_process_so_that_breakpoints_work(tmp_path: Path) -> None:
    source = REWARDS.replace("    return len", "    breakpoint()\n    return len")
    make_job(tmp_path, rewards=source)
    done = subprocess.run(
        command("reward", "test", "colours", "--rows", "1", "--debug", "--json"),
        input="p 'seen', example['word']\nc\nq\n",
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "('seen', 'red')" in done.stdout
    assert str(tmp_path / "jobs/colours/rewards.py") in done.stdout
    assert "stopped in the debugger" in done.stderr
    assert done.returncode == 130


def test_a_run_scored_again_under_the_same_files_has_not_changed(tmp_path: Path) -> None:
    make_job(tmp_path)
    assert cli("emulate", "colours", cwd=tmp_path).returncode == 0
    told = as_json(cli("reward", "rescore", "colours-1", "--json", cwd=tmp_path))
    assert told["versions"] == [told["version"]]
    assert told["completions"] == 6 * 16
    assert [(item["name"], item["changed"], item["new_winners"]) for item in told["changes"]] == [
        ("reward", 0, 0), ("right", 0, 0), ("long", 0, 0),
    ]  # fmt: skip


def test_an_edit_is_told_by_what_it_changes_on_recorded_completions(tmp_path: Path) -> None:
    folder = make_job(tmp_path)
    assert cli("emulate", "colours", cwd=tmp_path).returncode == 0
    edited = REWARDS.replace("1.0 if", "-1.0 if") + "\n\ndef new(prompt, completion, example):\n    return 0\n"
    (folder / "rewards.py").write_text(edited)
    job = (folder / "job.yaml").read_text()
    (folder / "job.yaml").write_text(job.replace("  long:", '  new: {fn: "rewards.py:new", weight: 0}\n  long:'))
    done = cli("reward", "rescore", "colours-1", "--step", "1-2", "--json", cwd=tmp_path)
    told = as_json(done)
    reward, right, long = told["changes"]
    assert told["steps"] == [1, 2] and told["completions"] == 32
    assert right["rank_correlation"] < -0.99 and reward["group_rank_correlation"] < -0.99
    assert right["new_winners"] == 8 and (right["gained"], right["lost"]) == (0, 0)
    assert long["changed"] == 0 and told["added"] == ["new"] and told["removed"] == []
    shown = cli("reward", "rescore", "colours-1", "--step", "1", cwd=tmp_path).stdout
    assert "new winners" in shown and "new: new, the run has no scores of it" in shown


def test_scoring_again_with_a_file_that_fails_exits_with_1(tmp_path: Path) -> None:
    folder = make_job(tmp_path)
    assert cli("emulate", "colours", cwd=tmp_path).returncode == 0
    (folder / "rewards.py").write_text(REWARDS.replace("len(completion)", "missing(completion)"))
    done = cli("reward", "rescore", "colours-1", "--step", "3", cwd=tmp_path)
    assert done.returncode == 1
    assert "NameError: name 'missing' is not defined" in done.stdout
    assert "long 16" in done.stderr


def test_recorded_completions_of_a_run_can_be_tried(tmp_path: Path) -> None:
    make_job(tmp_path)
    assert cli("emulate", "colours", cwd=tmp_path).returncode == 0
    done = cli("reward", "test", "colours", "--run", "colours-1", "--rows", "2", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["origin"] == "recorded"
    assert len(json.loads(done.stdout)["completions"]) == 8
