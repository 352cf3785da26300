"""`runner plan`: every value in force and what it comes to."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.cli.kit import as_json, cli, make_job


def test_the_arithmetic_is_told_in_words(tmp_path: Path) -> None:
    make_job(tmp_path)
    plan = as_json(cli("plan", "colours", "--json", cwd=tmp_path))
    assert plan["arithmetic"][:2] == [
        "4 prompts × 4 generations = 16 completions a step; 6 steps",
        "24 prompts = 96 completions generated, at most 49,152 tokens",
    ]
    assert plan["arithmetic"][2].startswith("data: 8 rows, ")
    assert plan["first_prompt"].startswith("Say ")
    assert len(plan["reward_version"]) == 64


def test_what_it_prints_is_the_resolved_job_as_yaml(tmp_path: Path) -> None:
    make_job(tmp_path)
    done = cli("plan", "colours", "--set", "grpo.beta=0.5", cwd=tmp_path)
    assert done.returncode == 0
    resolved = yaml.safe_load(done.stdout)
    assert resolved["grpo"]["beta"] == 0.5
    assert resolved["grpo"]["epsilon"] == 0.2
    assert "# right: rewards.py:right" in done.stdout.replace("#   ", "# ")


def test_the_emulator_says_what_it_does_differently(tmp_path: Path) -> None:
    make_job(tmp_path)
    plan = as_json(cli("plan", "colours", "--backend", "emulator", "--json", cwd=tmp_path))
    assert {item["field"] for item in plan["differences"]} == {"evaluation", "grpo.optim"}
    assert plan["spec"]["grpo"]["learning_rate"] == 2
    assert as_json(cli("plan", "colours", "--json", cwd=tmp_path))["differences"] == []


def test_nothing_is_made(tmp_path: Path) -> None:
    make_job(tmp_path)
    cli("plan", "colours", cwd=tmp_path)
    assert not (tmp_path / ".runner").exists()


def test_a_probe_draws_completions_and_says_whether_grpo_can_learn(tmp_path: Path) -> None:
    make_job(tmp_path)
    plan = as_json(cli("plan", "colours", "--backend", "emulator", "--probe", "--prompts", "5", "--json", cwd=tmp_path))
    probe = plan["probe"]
    assert (probe["prompts"], probe["num_generations"], probe["measure"], probe["cut"]) == (5, 4, "right", 0.0)
    assert 0 < probe["pass_at_1"] < probe["pass_at_group"] <= 1
    assert [figures["name"] for figures in probe["figures"]] == ["right", "long"]
    assert probe["verdict"][0].startswith("can learn: ")


def test_a_probe_of_rewards_that_say_the_same_of_everything_tells_so(tmp_path: Path) -> None:
    arguments = "(prompt, completion, example):\n    "
    rewards = f"def right{arguments}return 1.0\n\n\ndef long{arguments}1 / 0\n"
    make_job(tmp_path, rewards=rewards)
    done = cli("plan", "colours", "--backend", "emulator", "--probe", cwd=tmp_path)
    assert done.returncode == 0
    assert "50% of the reward calls fail: mend them first" in done.stdout
    assert "too easy: nearly every completion passes already" in done.stdout


def test_the_time_of_a_step_is_that_of_an_earlier_run(tmp_path: Path) -> None:
    make_job(tmp_path)
    assert as_json(cli("plan", "colours", "--backend", "emulator", "--json", cwd=tmp_path))["seconds_a_step"] is None
    assert cli("emulate", "colours", "--no-checks", cwd=tmp_path).returncode == 0
    found = as_json(cli("plan", "colours", "--backend", "emulator", "--json", cwd=tmp_path))["seconds_a_step"]
    assert found["run"] == "colours-1"
    assert found["seconds"] > 0
