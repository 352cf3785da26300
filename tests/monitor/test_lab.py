"""The reward lab: edited rewards scored on stored completions, published, saved; with real runs and processes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runner
from runner.monitor.server import Monitor
from tests.monitor.kit import CHROME, Answer, ask, get, settings
from tests.small_job import REWARDS, write_job

PATIENT = 60.0
STRICTER = REWARDS.replace("return 1.0 if", "return 0.5 if")
SLEEPY = REWARDS.replace("    return 1.0 if", "    import time; time.sleep(0.5)\n    return 1.0 if")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a finished run, `sums-1`."""
    path = tmp_path_factory.mktemp("lab")
    assert runner.emulate(write_job(path), home=path).state == "succeeded"
    return path


@pytest.fixture(scope="module")
def lab(home: Path) -> Iterator[Monitor]:
    with Monitor(settings(home, right="edit")) as running:
        yield running


def post(monitor: Monitor, path: str, body: Any, method: str = "POST") -> Answer:
    return ask(
        monitor, f"/api/v1/{path}", method, {**CHROME, "content-type": "application/json"}, json.dumps(body).encode()
    )


def live_version(monitor: Monitor) -> str:
    return str(get(monitor, "runs/sums-1")["versions"][-1]["sha256"])


def over(monitor: Monitor) -> Any:
    """The re-scoring of the run, once it is."""
    deadline = time.monotonic() + PATIENT
    while (found := get(monitor, "runs/sums-1/lab"))["state"] == "scoring":
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def test_edited_rewards_are_scored_on_stored_completions_and_compared(lab: Monitor) -> None:
    base = live_version(lab)
    begun = post(lab, "runs/sums-1/lab", {"base": base, "files": {"rewards.py": STRICTER}, "last_steps": 5})
    assert begun.status == 200, begun.text
    assert begun.json["state"] == "scoring"

    found = over(lab)

    assert (found["state"], found["error"], found["done"]) == ("done", None, 0)
    result = found["result"]
    assert (result["steps"], result["completions"]) == ([16, 20], 80)
    assert [one["name"] for one in result["changes"]] == ["reward", "right", "short"]
    right, short = result["changes"][1:]
    assert right["mean_after"] == pytest.approx(right["mean_before"] / 2)
    assert right["changed"] > 0 and short["changed"] == 0
    assert all(one["after"] == pytest.approx(one["before"] - 0.5) for one in result["moved"])
    assert len(result["moved"]) == right["changed"]
    assert result["version"] != base and get(lab, "runs/sums-1")["versions"][-1]["sha256"] == base


def test_a_re_scoring_can_be_cancelled_and_there_is_one_at_a_time(lab: Monitor) -> None:
    edited = {"base": live_version(lab), "files": {"rewards.py": SLEEPY}, "last_steps": 20}
    assert post(lab, "runs/sums-1/lab", edited).status == 200
    second = post(lab, "runs/sums-1/lab", edited)
    assert (second.status, second.code) == (409, "not_now")
    assert get(lab, "runs")["runs"], "the monitor answers meanwhile"

    assert post(lab, "runs/sums-1/lab", None, "DELETE").json["state"] == "cancelled"

    assert over(lab)["state"] == "cancelled"
    assert post(lab, "runs/sums-1/lab", {**edited, "files": {"rewards.py": STRICTER}}).status == 200
    assert over(lab)["state"] == "done"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def right(:\n", "rewards.py is no valid Python"),
        ("def right(prompt): return 1\n", "right"),
        ("import nothing_of_the_sort\n" + REWARDS, "nothing_of_the_sort"),
    ],
)
def test_files_that_make_no_version_are_said_to_be_wrong(lab: Monitor, text: str, said: str) -> None:
    post(lab, "runs/sums-1/lab", {"base": live_version(lab), "files": {"rewards.py": text}})
    found = over(lab)
    assert found["state"] == "failed" and said in found["error"]


def test_only_files_of_the_version_are_written_and_only_where_nobody_else_has_edited_them(
    lab: Monitor, home: Path
) -> None:
    base, file = live_version(lab), home / "jobs" / "sums" / "rewards.py"
    for path in ("../../outside.py", "data.jsonl", "/etc/passwd", "other.py"):
        answer = post(lab, "runs/sums-1/save", {"base": base, "files": {path: "x = 1"}})
        assert answer.status == 409 and "it has rewards.py" in answer.json["detail"]

    saved = post(lab, "runs/sums-1/save", {"base": base, "files": {"rewards.py": STRICTER}})
    assert (saved.status, saved.json) == (200, {"paths": [str(file)]})
    assert file.read_text() == STRICTER

    file.write_text("# somebody else's\n" + REWARDS)
    answer = post(lab, "runs/sums-1/save", {"base": base, "files": {"rewards.py": STRICTER}})
    assert answer.status == 409 and "not the file of this reward version any more" in answer.json["detail"]
    assert file.read_text().startswith("# somebody else's\n")
    file.write_text(REWARDS)


def test_nothing_is_published_to_a_run_that_has_ended(lab: Monitor) -> None:
    base = live_version(lab)
    answer = post(lab, "runs/sums-1/versions", {"base": base, "expected": base, "files": {"rewards.py": STRICTER}})
    assert (answer.status, answer.code) == (409, "not_now")
    assert "runner rerun sums-1" in answer.json["detail"]


def test_a_published_version_goes_live_and_can_be_taken_back(tmp_path: Path) -> None:
    slow = REWARDS.replace("    return 1.0 if", "    import time; time.sleep(0.02)\n    return 1.0 if")
    run = runner.emulate(write_job(tmp_path, slow, grpo={"steps": 500}), home=tmp_path, wait=False)
    try:
        with Monitor(settings(tmp_path, right="edit")) as lab:
            until(lambda: state_of(lab, 1) == "active")
            base = live_version(lab)
            edited = {"base": base, "expected": base, "files": {"rewards.py": slow + "\n# edited\n"}}
            made = post(lab, "runs/sums-1/versions", edited)
            assert made.status == 200, made.text
            until(lambda: state_of(lab, 2) == "active")
            assert get(lab, "runs/sums-1")["versions"][1]["sha256"] == made.json["sha256"]
            assert "+# edited" in get(lab, f"runs/sums-1/versions/{made.json['sha256']}")["diff_from_previous"]

            again = post(lab, "runs/sums-1/versions", edited)
            assert again.status == 409 and "changed in between" in again.json["detail"]

            assert post(lab, "runs/sums-1/rollback", {"version": 1}).json == {"sha256": base}
            until(lambda: state_of(lab, 1) == "active" and state_of(lab, 2) == "retired")
    finally:
        run.cancel()
        run.wait()


def state_of(monitor: Monitor, version: int) -> str:
    found = {one["version"]: one["state"] for one in get(monitor, "runs/sums-1")["versions"]}
    return str(found.get(version, ""))


def until(done: Any) -> None:
    deadline = time.monotonic() + PATIENT
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("right", ["view", "control"])
def test_without_the_right_to_edit_no_route_of_the_lab_answers(home: Path, right: Any) -> None:
    with Monitor(settings(home, right=right)) as monitor:
        for method, path in [
            ("GET", "lab"), ("POST", "lab"), ("DELETE", "lab"), ("POST", "versions"), ("POST", "rollback"),
            ("POST", "accept"), ("POST", "save"),
        ]:  # fmt: skip
            answer = (
                post(monitor, f"runs/sums-1/{path}", {}, method)
                if method != "GET"
                else ask(monitor, f"/api/v1/runs/sums-1/{path}")
            )
            assert (answer.status, answer.code) == (403, "right"), path
            assert "--allow-edit" in answer.json["detail"] or right == "view"
