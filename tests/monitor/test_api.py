"""What the API answers about a recorded run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from runner.journal import events
from runner.journal.states import Reason, State
from runner.journal.words import WORDS
from runner.monitor.openapi import openapi
from runner.monitor.server import Monitor
from runner.rewards import bundle
from runner.rewards.versions import Shelf
from runner.spec.model import Reward
from runner.store.rows import JobRow
from runner.store.store import Store
from tests.monitor.kit import CHROME, ask, get, record, settings
from tests.store import builders

HOSTILE = {
    "script": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "bidi": "a\u202eb\u2066c",
    "ansi": "\x1b[2J\x1b]0;title\x07",
    "nul": "before\0behind",
    "surrogate-like": "\ud7ff\ue000\uffff",
    "long": "x" * 1_000_000,
}


def test_home_says_what_is_shown_and_what_is_allowed(monitor: Monitor, home: Path) -> None:
    found = get(monitor, "home")
    assert (found["home"], found["token"], found["emulate"]) == (str(home), False, False)
    assert found["rights"] == ["view", "control"]


def test_a_run_with_everything_it_is_made_of(monitor: Monitor) -> None:
    run = get(monitor, "runs/countdown-1")
    assert (run["id"], run["job"], run["emulated"], run["last_step"], run["total_steps"]) == (
        "countdown-1", "countdown", True, 3, 5,
    )  # fmt: skip
    assert run["spec"]["name"] == "countdown"
    assert run["reward"] == [[1, 0.1], [2, 0.2], [3, 0.3]]
    assert run["metric_names"] == ["eval/reward", "reward", "time/step"]
    assert run["splits"] == ["train", "eval"]
    assert [(one["n"], one["resumed_step"]) for one in run["attempts"]] == [(1, None)]
    assert "handle" not in run["attempts"][0]
    assert [(one["step"], one["kept"]) for one in run["checkpoints"]] == [(3, True)]
    assert [(one["version"], one["state"]) for one in run["versions"]] == [(1, "active")]


def test_runs_come_latest_first_in_pages(tmp_path: Path) -> None:
    for job in ("a", "b", "a"):
        run_id = record(tmp_path, job=job)
        with Store.open(tmp_path / ".runner/runner.db") as store:
            store.transition(run_id, State.CANCELLED, Reason.CANCELLED)
    with Monitor(settings(tmp_path)) as monitor:
        first = get(monitor, "runs?limit=2")
        assert [run["id"] for run in first["runs"]] == ["a-2", "b-1"]
        second = get(monitor, f"runs?limit=2&before={first['next']}")
        assert ([run["id"] for run in second["runs"]], second["next"]) == (["a-1"], None)
        assert [run["id"] for run in get(monitor, "runs?job=a")["runs"]] == ["a-2", "a-1"]
        assert get(monitor, "runs?state=running")["runs"] == []
        latest = {job["name"]: job["latest_run"]["id"] for job in get(monitor, "jobs")["jobs"]}
        assert latest == {"a": "a-2", "b": "b-1"}


def test_a_state_and_its_reason_come_in_words_with_what_to_do(tmp_path: Path) -> None:
    run_id = record(tmp_path)
    with Store.open(tmp_path / ".runner/runner.db") as store:
        store.transition(run_id, State.HELD, Reason.OUT_OF_MEMORY, "at step 3")
    with Monitor(settings(tmp_path)) as monitor:
        run = get(monitor, "runs/countdown-1")
    assert (run["state"], run["reason_words"]) == ("held", "out of memory")
    assert run["next_action"] == (
        "Fewer tokens or completions at once: grpo.micro_batch, grpo.max_completion_length. "
        "Resume goes on from the last checkpoint."
    )


def test_every_reason_has_words() -> None:
    assert set(WORDS) == set(Reason)


def test_jobs_show_what_is_wrong_with_their_files(tmp_path: Path) -> None:
    finding = {"code": "type", "message": "no number", "file": "job.yaml", "line": 3, "severity": "error"}
    with Store.open(tmp_path / ".runner/runner.db") as store:
        store.put_jobs([JobRow(name="x", path="jobs/x", revision=None, state="invalid", errors=[finding], seen_at=1.0)])
    with Monitor(settings(tmp_path)) as monitor:
        assert get(monitor, "jobs")["jobs"] == [
            {"name": "x", "path": "jobs/x", "revision": None, "state": "invalid", "errors": [finding], "seen_at": 1.0,
             "latest_run": None}
        ]  # fmt: skip


def test_metrics_by_name_and_between_steps(monitor: Monitor) -> None:
    found = get(monitor, "runs/countdown-1/metrics?names=reward,none&from=2")["series"]
    assert found == {
        "reward": {"steps": [2, 3], "values": [0.2, 0.3], "lows": [0.2, 0.3], "highs": [0.2, 0.3], "nonfinite": 0}
    }


def test_what_is_not_finite_is_null_and_never_breaks_an_answer(tmp_path: Path) -> None:
    run_id = record(tmp_path)
    with Store.open(tmp_path / ".runner/runner.db") as store, store.writing() as conn:
        conn.execute("UPDATE metrics SET value = ? WHERE step = 2", (math.inf,))
        conn.execute("UPDATE rollouts SET reward = ?, advantage = ? WHERE step = 2", (math.inf, -math.inf))
        conn.execute("UPDATE scores SET value = ?", (math.inf,))
    with Monitor(settings(tmp_path)) as monitor:
        series = get(monitor, f"runs/{run_id}/metrics")["series"]["reward"]
        assert (series["values"], series["nonfinite"]) == ([0.1, None, 0.3], 1)
        assert get(monitor, f"runs/{run_id}")["reward"] == [[1, 0.1], [2, None], [3, 0.3]]
        rows = get(monitor, f"runs/{run_id}/completions?step=2")["completions"]
        assert [(row["reward"], row["advantage"], row["scores"]["format"]["value"]) for row in rows] == [
            (None,) * 3
        ] * 2
        assert get(monitor, f"runs/{run_id}/groups?step=2")["groups"][0]["reward_mean"] is None


def test_markers_of_versions_checkpoints_restarts_alerts_and_evaluations(tmp_path: Path) -> None:
    begin = [builders.started(), builders.version(1, "active", 0), builders.seen(), *builders.evaluation(0)]
    steps = [builders.batch(1), builders.metrics(1), builders.saved(1), builders.batch(2), builders.metrics(2)]
    alert = events.Alert(step=2, code="no-signal", message="all rewards are equal")
    second = [builders.started(2, 1), alert, builders.batch(2), builders.metrics(2)]
    run_id = record(tmp_path, [*begin, *steps], second)
    with Monitor(settings(tmp_path)) as monitor:
        found = [(one["step"], one["kind"], one["text"]) for one in get(monitor, f"runs/{run_id}/markers")]
        assert found == [
            (0, "version", "reward version 1"),
            (0, "evaluation", "evaluation"),
            (1, "checkpoint", "checkpoint"),
            (1, "restart", "attempt 2 goes on from here"),
            (2, "alert", "all rewards are equal"),
        ]
        (alert_shown,) = get(monitor, f"runs/{run_id}")["alerts"]
        assert (alert_shown["step"], alert_shown["code"]) == (2, "no-signal")


def test_steps_prompts_and_groups(monitor: Monitor) -> None:
    assert get(monitor, "runs/countdown-1/steps") == {"steps": [1, 2, 3]}
    assert get(monitor, "runs/countdown-1/steps?split=eval") == {"steps": [0]}
    found = get(monitor, "runs/countdown-1/prompts")
    assert found == {
        "prompts": [
            {"example_id": 7, "prompt": "2 and 3 make 5:", "prompt_length": 15, "columns": {"target": 5},
             "completions": 6, "first_step": 1, "last_step": 3, "best": 1.0, "mean": 0.5}
        ],
        "next": None,
    }  # fmt: skip
    (group,) = get(monitor, "runs/countdown-1/groups?step=2")["groups"]
    assert (group["completions"], group["scored"], group["reward_mean"], group["signal"]) == (2, 2, 0.5, True)


def test_a_group_of_equal_rewards_has_no_signal(tmp_path: Path) -> None:
    same = builders.batch(1, builders.rollout("a", 0.1 + 0.2), builders.rollout("b", 0.3))
    run_id = record(tmp_path, [builders.started(), builders.seen(), same, builders.metrics(1)])
    with Monitor(settings(tmp_path)) as monitor:
        assert get(monitor, f"runs/{run_id}/groups?step=1")["groups"][0]["signal"] is False


def test_completions_go_on_from_a_cursor(monitor: Monitor) -> None:
    for order, expected in (
        ("step", ["train 1 a", "train 1 b", "train 2 a", "train 2 b", "train 3 a", "train 3 b"]),
        ("best", ["train 3 a", "train 2 a", "train 1 a", "train 3 b", "train 2 b", "train 1 b"]),
    ):
        found, after = [], ""
        while after is not None:
            page = get(
                monitor, f"runs/countdown-1/completions?limit=4&order={order}{after and f'&after={quote(after)}'}"
            )
            found += [row["completion"] for row in page["completions"]]
            after = page["next"]
        assert found == expected


def test_a_completion_with_all_that_is_known_of_it(monitor: Monitor) -> None:
    first = get(monitor, "runs/countdown-1/completions?step=2&limit=1")["completions"][0]
    assert {name: value for name, value in first.items() if name != "id"} == {
        "run_id": "countdown-1", "split": "train", "step": 2, "group_id": 0, "idx": 0, "example_id": 7,
        "prompt": "2 and 3 make 5:", "completion": "train 2 a", "n_tokens": 9, "finish_reason": "eos", "reward": 1.0,
        "advantage": 0.5, "reward_version": "v1", "truncated": False,
        "scores": {"format": {"value": 1.0, "outcome": "ok", "reason": None, "error": None, "output": None,
                              "seconds": 0.25}},
    }  # fmt: skip
    assert get(monitor, f"completions/{first['id']}") == first


def test_search_logs_and_compare(tmp_path: Path) -> None:
    failed = builders.score(None, "exception", error="ValueError: x\n  line 3")
    batch = builders.batch(1, builders.rollout("Found it", None, failed), builders.rollout("no", 1.0))
    for job in ("a", "b"):
        record(tmp_path, [builders.started(), builders.seen(), batch, builders.metrics(1)], job=job)
    with Monitor(settings(tmp_path)) as monitor:
        assert [row["completion"] for row in get(monitor, "runs/a-1/search?q=found")["completions"]] == ["Found it"]
        (log,) = get(monitor, "runs/a-1/logs?outcome=failed")["logs"]
        assert (log["name"], log["outcome"], log["error"]) == ("format", "exception", "ValueError: x\n  line 3")
        found = get(monitor, "compare?runs=a-1,b-1")
        assert found == {"spec_differences": [], "headline": [{"name": "reward", "a": 0.1, "b": 0.1}]}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_comes_back_as_it_was_and_as_json(tmp_path: Path, kind: str) -> None:
    text = HOSTILE[kind]
    said = builders.score(None, "exception", error=text, output=text, reason=text)
    example = events.ExamplesSeen(examples=[events.ExampleRow(id=7, prompt=text, columns={text[:40]: text})])
    batch = builders.batch(1, builders.rollout(text, None, said), version=text[:40])
    run_id = record(tmp_path, [builders.started(), example, batch, builders.metrics(1)])
    with Monitor(settings(tmp_path)) as monitor:
        (row,) = get(monitor, f"runs/{run_id}/completions")["completions"]
        assert (row["completion"], row["prompt"], row["scores"]["format"]["output"]) == (text, text, text)
        (prompt,) = get(monitor, f"runs/{run_id}/prompts")["prompts"]
        assert (prompt["prompt"], prompt["columns"]) == (text, {text[:40]: text})
        assert get(monitor, f"runs/{run_id}/logs")["logs"][0]["error"] == text
        answer = ask(monitor, f"/api/v1/runs/{run_id}/completions")
        assert answer.headers["content-type"] == "application/json"
        found = get(monitor, f"runs/{run_id}/search?q={quote(text[:500])}")["completions"]
        assert [one["id"] for one in found] == [row["id"]]


@pytest.mark.parametrize(
    "path",
    [
        "runs/countdown",
        "runs/countdown-",
        "runs/countdown-99",
        "runs/..%2f..%2fetc",
        "runs/countdown-1%00",
        "completions/5",
    ],
)
def test_what_is_not_there_is_404_with_a_code(monitor: Monitor, path: str) -> None:
    answer = ask(monitor, f"/api/v1/{path}")
    assert answer.status == 404
    assert answer.code in ("run_unknown", "unknown")


def test_a_run_that_is_deleted_while_it_is_looked_at_is_404(tmp_path: Path) -> None:
    run_id = record(tmp_path)
    with Monitor(settings(tmp_path)) as monitor:
        assert ask(monitor, f"/api/v1/runs/{run_id}").status == 200
        with Store.open(tmp_path / ".runner/runner.db") as store:
            tables = (
                "scores",
                "rollouts",
                "examples",
                "metrics",
                "events",
                "checkpoints",
                "reward_versions",
                "attempts",
            )
            for table in tables:
                store.db.conn.execute(f"DELETE FROM {table}")
            store.db.conn.execute("DELETE FROM runs")
        for page in ("", "/metrics", "/completions", "/groups?step=1", "/logs", "/markers", "/search?q=a"):
            answer = ask(monitor, f"/api/v1/runs/{run_id}{page}")
            assert (answer.status, answer.code) == (404, "run_unknown"), page
            assert "deleted" in answer.json["detail"]


@pytest.mark.parametrize(
    "query",
    ["limit=501", "limit=0", "limit=-1", "limit=x", "step=-1", f"step={2**70}", "split=test", "order=random", "min=nan",
     "min=inf", "after=x", "after=5", "after=[1]", "after=[1,2,3,4]", "after=[1,2,true]", f"after=[1,2,{2**70}]",
     "after=" + "[" * 900, "q=" + "x" * 1001, "example_id=1.5"],
)  # fmt: skip
def test_parameters_that_make_no_sense_are_422_with_the_reason(monitor: Monitor, query: str) -> None:
    answer = ask(monitor, f"/api/v1/runs/countdown-1/completions?{query}")
    assert (answer.status, answer.code) == (422, "parameter"), answer.text
    assert query.partition("=")[0] in answer.json["detail"]


def test_actions_on_an_ended_run_say_why_not(tmp_path: Path) -> None:
    run_id = record(tmp_path)
    with Store.open(tmp_path / ".runner/runner.db") as store:
        store.transition(run_id, State.CANCELLED, Reason.CANCELLED)
    with Monitor(settings(tmp_path)) as monitor:
        for verb, told in (("cancel", "nothing to cancel"), ("stop", "only a running run"), ("resume", "final")):
            answer = ask(monitor, f"/api/v1/runs/{run_id}/{verb}", "POST", CHROME)
            assert (answer.status, answer.code) == (409, "not_now")
            assert told in answer.json["detail"]


def test_a_queued_run_is_cancelled(tmp_path: Path) -> None:
    with Store.open(tmp_path / ".runner/runner.db") as store:
        run_id = store.submit(builders.submission())
    with Monitor(settings(tmp_path)) as monitor:
        answer = ask(monitor, f"/api/v1/runs/{run_id}/cancel", "POST", CHROME)
        assert (answer.status, answer.json["state"]) == (200, "cancelled")
        assert get(monitor, f"runs/{run_id}")["state"] == "cancelled"


def test_the_sources_of_a_reward_version_by_its_hash_only(monitor: Monitor) -> None:
    for name in ("v1", "../../../etc/passwd", "..%2f..", "0" * 63, "A" * 64, "0" * 64 + "%2f.."):
        assert ask(monitor, f"/api/v1/runs/countdown-1/versions/{name}").status in (404, 422), name
    assert ask(monitor, f"/api/v1/runs/countdown-1/versions/{'0' * 64}").code == "unknown"


def test_a_reward_version_with_what_it_changed(tmp_path: Path) -> None:
    built: list[bundle.Bundle] = []
    for value in (1, 2):
        source = tmp_path / f"v{value}"
        source.mkdir()
        (source / "rewards.py").write_text(f"def f(prompt, completion, example):\n    return {value}\n")
        built.append(bundle.build({"f": Reward(fn="rewards.py:f")}, source))
    changes = [builders.version(n, "active", n, one.sha256) for n, one in enumerate(built, 1)]
    run_id = record(tmp_path, [builders.started(), *changes])
    shelf = Shelf(tmp_path / ".runner/runs" / run_id / "rewards")
    for one in built:
        shelf.publish(one, "edit")
    path = f"runs/{run_id}/versions/{built[1].sha256}"
    with Monitor(settings(tmp_path)) as monitor:
        found = get(monitor, path)
        assert found["files"] == {"rewards.py": "def f(prompt, completion, example):\n    return 2\n"}
        assert "-    return 1\n+    return 2\n" in found["diff_from_previous"]
        assert (found["editable"], found["wanted"]) == (["rewards.py"], built[1].sha256)
        (shelf.path(built[1].sha256) / "rewards.py").write_text("changed since")
        answer = ask(monitor, f"/api/v1/{path}")
        assert (answer.status, answer.code) == (404, "unknown")
        assert "its files have changed since it was written" in answer.json["detail"]


def test_the_description_that_is_checked_in_is_current() -> None:
    """If not: make generated"""
    checked_in = (Path(__file__).parents[2] / "schemas" / "openapi.json").read_text(encoding="utf-8")
    assert json.loads(checked_in) == json.loads(openapi())


def test_every_answer_of_the_api_is_typed() -> None:
    untyped: list[str] = []
    for path, methods in json.loads(openapi())["paths"].items():
        for method, operation in methods.items():
            content: dict[str, Any] = operation["responses"]["200"]["content"]
            (kind,) = content
            typed = kind == "text/event-stream" or content[kind]["schema"]
            if not typed or "description" not in operation:
                untyped.append(f"{method} {path}")
    assert untyped == []
