"""A secret reaches the reward functions, and nothing that is written or shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.rewards.contract import Outcome
from runner.rewards.host import RewardHost
from runner.rewards.sandbox import Settings
from runner.rewards.secrets import resolve
from runner.spec.errors import JobError
from runner.spec.sandbox import Secret
from tests.rewards.helpers import group, processes_with, version_of

VALUE = "sk-4f9a1c7be2d04d51"

SOURCE = """
import os, sys, time
KEY = os.environ["JUDGE_KEY"]
def score(prompt, completion, example):
    print("key is", KEY)
    if completion == "raise":
        raise ValueError(f"401 for {KEY}")
    if completion == "hang":
        time.sleep(60)
    if completion == "flood":
        for _ in range(2000):
            print(KEY * 3)
    if completion == "crash":
        os._exit(1)
    return {"score": len(KEY), "reason": f"asked with {KEY}"}
"""


def test_a_secret_is_found_where_the_job_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", VALUE)
    (tmp_path / "key.txt").write_text(f"{VALUE}\n")
    found = resolve({"A": Secret(env="MY_KEY"), "B": Secret(file="key.txt")}, tmp_path)
    assert found == {"A": VALUE, "B": VALUE}


def test_every_secret_that_is_missing_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    monkeypatch.setenv("SHORT", "abc")
    wanted = {"A": Secret(env="NO_KEY"), "B": Secret(file="no.txt"), "C": Secret(env="SHORT")}
    with pytest.raises(JobError) as caught:
        resolve(wanted, tmp_path)
    assert [(finding.code, finding.field) for finding in caught.value.findings] == [
        ("secret", "secrets.A"),
        ("secret", "secrets.B"),
        ("secret", "secrets.C"),
    ]
    first, second, third = caught.value.findings
    assert first.message == "the secret A is not there: the environment variable NO_KEY can't be read"
    assert first.hint == "export NO_KEY=… before starting"
    assert "the file no.txt can't be read" in second.message
    assert "fewer than 6 characters" in third.message and "abc" not in str(caught.value)


def test_a_secret_has_one_place() -> None:
    with pytest.raises(ValueError, match="a secret is found in one place"):
        Secret()


@pytest.mark.parametrize("isolation", ["worker", "call"])
def test_no_text_shows_a_secret(tmp_path: Path, isolation: str) -> None:
    version = version_of(tmp_path, SOURCE, isolation=isolation, timeout=0.5)
    texts = ["a", "raise", "hang", "flood", "crash"]
    with RewardHost(version, seed=0, settings=Settings(secrets={"JUDGE_KEY": VALUE})) as host:
        rows = host.score([group(texts)], step=0, split="train")
        assert processes_with(VALUE) == []
    scores = [row[0] for row in rows]
    assert [score.outcome for score in scores] == [
        Outcome.OK,
        Outcome.EXCEPTION,
        Outcome.TIMEOUT,
        Outcome.OK,
        Outcome.KILLED,
    ]
    assert scores[0].value == float(len(VALUE))
    assert scores[0].reason == "asked with [secret JUDGE_KEY]"
    assert scores[1].error and scores[1].error.startswith("ValueError: 401 for [secret JUDGE_KEY]\n")
    for score in scores:
        said = f"{score.output}{score.error}{score.reason}"
        assert score.output and score.output.startswith("key is [secret JUDGE_KEY]\n")
        assert VALUE[:9] not in said and VALUE[9:] not in said


def test_nothing_in_the_run_holds_a_secret(tmp_path: Path) -> None:
    version = version_of(tmp_path, SOURCE)
    settings = Settings(secrets={"JUDGE_KEY": VALUE}, state=tmp_path / "rewards")
    with RewardHost(version, seed=0, scratch=tmp_path / "scratch", settings=settings) as host:
        host.score([group(["a", "raise"])], step=0, split="train")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not [path for path in files if VALUE.encode() in path.read_bytes()]
    assert VALUE not in repr(settings)


def test_an_import_that_fails_shows_no_secret(tmp_path: Path) -> None:
    source = "import os\nraise RuntimeError(os.environ['JUDGE_KEY'])\ndef score(p, c, e): ...\n"
    with pytest.raises(JobError) as caught:
        RewardHost(version_of(tmp_path, source), seed=0, settings=Settings(secrets={"JUDGE_KEY": VALUE}))
    assert "[secret JUDGE_KEY]" in str(caught.value) and VALUE not in str(caught.value)
