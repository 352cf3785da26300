"""The verbs that tell what was recorded: ls, show, logs, completions, diff, export. Model text is hostile."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.kit import REWARDS, as_json, cli, command, environment, make_job
from tests.small_job import write_job

HOSTILE = "{} \x1b]0;owned\x07\x1b[2J\x9b31m\u202e[red]gnp[/red]\r\x00"
COMPLETIONS = ("It is {}.", HOSTILE, "No idea.", "Nothing\nto say.")
LOUD = REWARDS.replace("    return len(completion)", "    print('saw', completion)\n    return 1 / len(completion[8:])")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ended runs of one job; the rewards changed in between, and fail on short completions."""
    folder = tmp_path_factory.mktemp("home")
    job = make_job(folder, rewards=LOUD, completions=COMPLETIONS)
    assert cli("emulate", "colours", cwd=folder).returncode == 1
    (job / "rewards.py").write_text(LOUD.replace("return 1.0 if", "return 0.5 if"))
    assert cli("emulate", "colours", "--set", "grpo.beta=0.1", cwd=folder).returncode == 1
    return folder


def assert_harmless(shown: str) -> None:
    assert not [c for c in shown if not c.isprintable() and c != "\n"]


def test_ls_lists_runs_latest_first(home: Path) -> None:
    lines = cli("ls", cwd=home).stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["RUN", "STATE", "STEP"],
        ["colours-2", "succeeded", "6/6"],
        ["colours-1", "succeeded", "6/6"],
    ]
    assert "EMULATED" in lines[1]
    listed = as_json(cli("ls", "--job", "colours", "--json", cwd=home))["runs"]
    assert [run["id"] for run in listed] == ["colours-2", "colours-1"]
    assert cli("ls", "--state", "failed", cwd=home).stdout == ""


def test_labels_are_shown_with_the_runs_that_have_some(tmp_path: Path) -> None:
    write_job(tmp_path, name="plain")
    write_job(tmp_path, name="ours", labels={"team": "red"})
    for name in ("plain", "ours"):
        assert cli("submit", name, "--backend", "emulator", cwd=tmp_path).returncode == 0
    head, ours, plain = cli("ls", cwd=tmp_path).stdout.splitlines()
    assert "LABELS" in head and "team=red" in ours and "team" not in plain
    listed = as_json(cli("ls", "--json", cwd=tmp_path))["runs"]
    assert [run["labels"] for run in listed] == [{"team": "red"}, {}]
    settings = [line.split() for line in cli("show", "ours", cwd=tmp_path).stdout.splitlines() if "labels" in line]
    assert settings == [["labels.team", "red"]]


def test_show_tells_settings_attempts_checkpoints_and_how_to_go_on(home: Path) -> None:
    done = cli("show", "colours-2", cwd=home)
    assert done.returncode == 0
    for words in ("grpo.beta", "1  from the model  finished", "checkpoints/step-000006", "reward versions", "next"):
        assert words in done.stdout
    assert as_json(cli("show", "colours", "--json", cwd=home))["id"] == "colours-2"


def test_an_unknown_run_is_told_with_2(home: Path) -> None:
    for verb in ("show", "logs", "completions", "cancel", "resume", "export"):
        done = cli(verb, "nobody", cwd=home)
        assert (done.returncode, done.stdout) == (2, "")
        assert "runner ls" in done.stderr


def test_an_ended_run_can_be_neither_cancelled_nor_resumed(home: Path) -> None:
    assert "nothing to cancel" in cli("cancel", "colours-1", cwd=home).stderr
    done = cli("resume", "colours-1", cwd=home)
    assert done.returncode == 2
    assert "runner rerun" in done.stderr


def test_logs_tell_what_happened(home: Path) -> None:
    lines = cli("logs", "colours-1", cwd=home).stdout.splitlines()
    assert "attempt 1 on emulator, from the model" in lines[2]
    assert lines[-1].endswith("succeeded (finished: step 6 of 6)")
    events = [json.loads(line) for line in cli("logs", "colours-1", "--json", cwd=home).stdout.splitlines()]
    assert {"transition", "metrics_reported", "checkpoint_saved"} <= {event["type"] for event in events}


def test_reward_logs_hold_prints_and_errors_with_their_line(home: Path) -> None:
    done = cli("logs", "colours-1", "--rewards", cwd=home)
    assert "ZeroDivisionError: division by zero" in done.stdout and "rewards.py:7" in done.stdout
    assert "│ saw No idea." in done.stdout
    assert_harmless(done.stdout)


def test_the_trainers_own_log_can_be_read(home: Path) -> None:
    log = home / ".runner/runs/colours-1/attempts/0001/trainer.log"
    with log.open("a") as file:
        file.write("loading \x1b[31mweights\n")
    assert cli("logs", "colours-1", "--trainer", cwd=home).stdout.endswith("loading \\x1b[31mweights\n")


def test_completions_show_groups_with_scores_and_reasons(home: Path) -> None:
    done = cli("completions", "colours-1", "--limit", "8", cwd=home)
    assert done.stdout.startswith("train step 6, group 0, example ")
    assert "> Say " in done.stdout and "advantage " in done.stdout and "right: not " in done.stdout
    assert "there are more" in done.stderr


def test_nothing_a_model_writes_reaches_the_terminal(home: Path) -> None:
    done = cli("completions", "colours-1", "--step", "all", "--limit", "200", "--full", cwd=home)
    assert "\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\u202e[red]gnp[/red]\\x0d\\x00" in done.stdout
    for shown in (done, cli("completions", "colours-1", "--jsonl", cwd=home), cli("show", "colours-1", cwd=home)):
        assert_harmless(shown.stdout)
        assert_harmless(shown.stderr)


def test_completions_can_be_chosen(home: Path) -> None:
    def chosen(*options: str) -> list[dict[str, object]]:
        found: list[dict[str, object]] = as_json(cli("completions", "colours-1", "--json", *options, cwd=home))[
            "completions"
        ]
        return found

    best = [row["reward"] for row in chosen("--best", "--step", "all")]
    assert best == sorted(best, key=float, reverse=True)  # type: ignore[arg-type]
    assert {row["split"] for row in chosen("--split", "eval")} == {"eval"}
    assert all("Say red." in str(row["prompt"]) for row in chosen("--prompt", "red"))
    assert {row["example_id"] for row in chosen("--example", "2")} <= {2}
    assert all(row["errors"] for row in chosen("--errors"))
    assert {row["step"] for row in chosen("--step", "1")} == {1}


def test_jsonl_gives_every_completion(home: Path) -> None:
    rows = [json.loads(line) for line in cli("completions", "colours-1", "--jsonl", cwd=home).stdout.splitlines()]
    assert len(rows) == 6 * 4 * 4
    assert {"id", "step", "prompt", "completion", "rewards/right", "reward", "advantage", "reasons"} <= rows[0].keys()
    assert any("\x1b" in row["completion"] for row in rows)


def test_two_completions_are_compared_word_by_word(home: Path) -> None:
    rows = [json.loads(line) for line in cli("completions", "colours-1", "--jsonl", cwd=home).stdout.splitlines()]
    old = next(row["id"] for row in rows if row["completion"] == "No idea.")
    new = next(row["id"] for row in rows if row["completion"] == "Nothing\nto say.")
    shown = cli("completions", "colours-1", "--diff", str(old), str(new), cwd=home).stdout
    assert "[-No-]{+Nothing" in shown
    assert cli("completions", "colours-2", "--diff", str(old), str(new), cwd=home).returncode == 2


def test_a_reader_that_leaves_is_no_error(home: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    args = command("completions", "colours-1", "--jsonl")
    done = subprocess.run(args, cwd=home, env=environment(), stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_diff_shows_settings_code_and_metrics(home: Path) -> None:
    done = cli("diff", "colours-1", "colours-2", "--exit-code", cwd=home)
    assert done.returncode == 1
    assert "grpo.beta" in done.stdout and "0.1" in done.stdout
    assert "+    return 0.5 if" in done.stdout and "-    return 1.0 if" in done.stdout
    assert "rewards/right/mean" in done.stdout
    same = cli("diff", "colours-1", "colours-1", "--exit-code", cwd=home)
    assert same.returncode == 0
    assert "the same job and the same rewards" in same.stdout


def test_diff_takes_job_files_too(home: Path) -> None:
    compared = as_json(cli("diff", "colours-2", "jobs/colours", "--json", cwd=home))
    assert compared["rewards"] == ""
    assert compared["fields"]["grpo.beta"] == {"a": 0.1, "b": 0.0}


def test_export_writes_completions_metrics_and_model(home: Path, tmp_path: Path) -> None:
    done = cli("export", "colours-1", "--home", home, cwd=tmp_path)
    assert done.returncode == 0
    folder = tmp_path / "colours-1"
    assert {path.name for path in (folder / "model").iterdir()} == {"README.md", "policy.json", "provenance"}
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["metric"] == "reward"] == ["1", "2", "3", "4", "5", "6"]
    assert "is there already" in cli("export", "colours-1", "--home", home, cwd=tmp_path).stderr


def test_exported_parquet_and_json_lines_hold_the_same(home: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("c.jsonl", "c.parquet"):
        assert cli("export", "colours-1", "--completions", name, "--home", home, cwd=tmp_path).returncode == 0
    lines = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    table = parquet.read_table(tmp_path / "c.parquet").to_pylist()
    assert len(table) == len(lines)
    for name in ("id", "completion", "reward", "rewards/right", "rewards/long"):
        assert [row[name] for row in table] == [row[name] for row in lines]


def test_a_wrong_ending_writes_nothing(home: Path, tmp_path: Path) -> None:
    done = cli("export", "colours-1", "--metrics", "m.csv", "--completions", "c.txt", "--home", home, cwd=tmp_path)
    assert done.returncode == 2
    assert ".jsonl or .parquet" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_database_comes_back_from_the_folders(home: Path) -> None:
    before = as_json(cli("completions", "colours-1", "--json", cwd=home))
    done = cli("db", "rebuild", cwd=home)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("2 runs and ")
    assert as_json(cli("completions", "colours-1", "--json", cwd=home)) == before


def test_rerun_goes_on_from_a_checkpoint(home: Path) -> None:
    done = cli("rerun", "colours-2", "--from", "4", "--json", cwd=home)
    run = as_json(done)
    assert (done.returncode, run["state"], run["step"]) == (0, "succeeded", 6)
    assert as_json(cli("show", run["run"], "--json", cwd=home))["parent"] == "colours-2@4"
    missing = cli("rerun", "colours-2", "--from", "3", cwd=home)
    assert missing.returncode == 2
    assert "no checkpoint of step 3" in missing.stderr


def test_submit_queues_and_resume_starts(home: Path) -> None:
    queued = cli("submit", "colours", "--backend", "emulator", cwd=home)
    run = queued.stdout.strip()
    assert as_json(cli("show", run, "--json", cwd=home))["state"] == "queued"
    assert as_json(cli("resume", run, "--json", cwd=home))["state"] == "succeeded"


def test_prune_removes_what_nobody_resumes_from_and_ls_goes_on_telling_all(tmp_path: Path) -> None:
    make_job(tmp_path)
    assert cli("emulate", "colours", cwd=tmp_path).returncode == 0
    folder = tmp_path / ".runner/runs/colours-1/checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-000004", "step-000006"]
    would = as_json(cli("prune", "--dry-run", "--json", cwd=tmp_path))
    assert [(item["run"], item["step"]) for item in would["removed"]] == [("colours-1", 4)]
    assert cli("prune", "--older", "1d", cwd=tmp_path).stdout == "0 checkpoints, 0.0 MB removed\n"
    assert cli("prune", cwd=tmp_path).returncode == 0
    assert [path.name for path in folder.iterdir()] == ["step-000006"]
    assert cli("prune", cwd=tmp_path).stdout == "0 checkpoints, 0.0 MB removed\n"
    assert as_json(cli("ls", "--json", cwd=tmp_path))["runs"][0]["last_step"] == 6


def test_ls_shows_job_files_that_the_watch_can_not_run(tmp_path: Path) -> None:
    make_job(tmp_path, job="model: [\n")
    assert cli("watch", "--emulate", "--once", "--home", tmp_path, cwd=tmp_path).returncode == 1
    assert "invalid  colours  jobs/colours/job.yaml:2  " in cli("ls", cwd=tmp_path).stderr
    [wrong] = as_json(cli("ls", "--json", cwd=tmp_path))["invalid"]
    assert (wrong["job"], wrong["errors"][0]["line"]) == ("colours", 2)
