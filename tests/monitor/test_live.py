"""What changes while one looks: live runs are taken in, the stream says which have news, and goes on where it was."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import runner
from runner.monitor import live
from runner.monitor.server import Monitor
from runner.store.rebuild import rebuild
from runner.store.store import Store
from tests.monitor.kit import CHROME, TOKEN, ask, get, record, settings
from tests.small_job import REWARDS, write_job
from tests.store import builders

PATIENT = 60.0


def until(holds: Callable[[], Any]) -> Any:
    """What it gives, once that is something."""
    deadline = time.monotonic() + PATIENT
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come")


@contextmanager
def stream(monitor: Monitor, query: str = "", **headers: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of a stream, each with its id."""
    connection = http.client.HTTPConnection("127.0.0.1", monitor.port, timeout=PATIENT)
    connection.request("GET", f"/api/v1/events{query}", headers={"host": "localhost", **headers})
    response = connection.getresponse()
    assert response.status == 200
    assert response.getheader("content-type", "").startswith("text/event-stream")
    try:
        yield _events(response)
    finally:
        response.close()
        connection.close()


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    lines: dict[str, str] = {}
    for line in response:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            lines[name] = value
        elif "data" in lines:
            yield {"event": lines["event"], "id": int(lines["id"]), **json.loads(lines["data"])}
            lines = {}


def test_a_live_run_is_seen_step_by_step_without_anybody_else_looking(tmp_path: Path) -> None:
    job = write_job(tmp_path, grpo={"steps": 20})
    with Monitor(settings(tmp_path)) as monitor, stream(monitor) as news:
        handle = runner.emulate(job, home=tmp_path, wait=False)
        first = next(news)
        assert (first["event"], first["runs"]) == ("changed", [handle.id])
        ended = until(lambda: (run := get(monitor, f"runs/{handle.id}"))["state"] == "succeeded" and run)
        assert (ended["last_step"], ended["reason"]) == (20, "finished")
        assert len(ended["reward"]) == 20
        (version,) = ended["versions"]
        sources = get(monitor, f"runs/{handle.id}/versions/{version['sha256']}")
        assert (sources["files"], sources["diff_from_previous"]) == ({"rewards.py": REWARDS}, "")
        assert get(monitor, "home")["problems"] == []


def test_a_run_is_stopped_and_resumed_from_the_page(tmp_path: Path) -> None:
    slow = "import time\ndef right(prompt, completion, example):\n    time.sleep(0.05)\n    return 1.0\n"
    slow += "def short(prompt, completion, example):\n    return 0.5\n"
    job = write_job(tmp_path, rewards=slow, grpo={"steps": 400})
    handle = runner.emulate(job, home=tmp_path, wait=False, detach=True)
    with Monitor(settings(tmp_path)) as monitor:
        path = f"/api/v1/runs/{handle.id}"
        until(lambda: get(monitor, f"runs/{handle.id}")["last_step"] >= 2)
        assert ask(monitor, f"{path}/stop", "POST", CHROME).status == 200
        held = until(lambda: (run := get(monitor, f"runs/{handle.id}"))["state"] == "held" and run)
        assert (held["reason"], held["next_action"]) == ("stopped", "Resume goes on from the last checkpoint.")
        assert ask(monitor, f"{path}/resume", "POST", CHROME).json["state"] in ("starting", "running")
        again = until(lambda: (run := get(monitor, f"runs/{handle.id}"))["last_step"] > held["last_step"] and run)
        assert len(again["attempts"]) == 2
        ask(monitor, f"{path}/cancel", "POST", CHROME)
        until(lambda: get(monitor, f"runs/{handle.id}")["state"] == "cancelled")


def test_the_stream_goes_on_behind_the_last_event_that_was_seen(tmp_path: Path) -> None:
    first, second = record(tmp_path, job="a"), record(tmp_path, job="b")
    with Monitor(settings(tmp_path)) as monitor:
        until(lambda: {get(monitor, f"runs/{run}")["state"] for run in (first, second)} == {"succeeded"})
        with Store.open(tmp_path / ".runner/runner.db") as store:
            rows = builders.rows(store, "SELECT id, run_id FROM events ORDER BY id")
        for query, headers in (("?after=0", {}), ("", {"last-event-id": "0"})):
            with stream(monitor, query, **headers) as news:
                found = next(news)
                assert (sorted(found["runs"]), found["id"], found["seq"]) == ([first, second], rows[-1][0], rows[-1][0])
        with stream(monitor, **{"last-event-id": str(rows[-2][0])}) as news:
            assert next(news)["runs"] == [rows[-1][1]]


def test_a_stream_carries_no_contents(tmp_path: Path) -> None:
    record(tmp_path)
    with Monitor(settings(tmp_path)) as monitor, stream(monitor, "?after=0") as news:
        assert set(next(news)) == {"event", "id", "runs", "seq"}


def test_after_a_rebuild_everything_counts_as_changed(tmp_path: Path) -> None:
    record(tmp_path)
    with Monitor(settings(tmp_path)) as monitor, stream(monitor, "?after=999999") as news:
        assert next(news)["runs"] == ["*"]
        rebuild(tmp_path / ".runner/runner.db")
        next(news)
        until(lambda: get(monitor, "runs")["runs"])


def test_one_broken_journal_keeps_no_other_run_out_and_is_told(tmp_path: Path) -> None:
    broken, whole = record(tmp_path, job="broken"), record(tmp_path, job="whole")
    with (tmp_path / f".runner/runs/{broken}/journal/0001.jsonl").open("a") as file:
        file.write('{"type": "from the future"}\n')
    with Monitor(settings(tmp_path)) as monitor:
        until(lambda: get(monitor, f"runs/{whole}")["state"] == "succeeded")
        (problem,) = until(lambda: get(monitor, "home")["problems"])
        assert problem.startswith("broken-1: ")
        assert "not an event this runner knows" in problem


def test_there_are_only_so_many_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path)
    monkeypatch.setattr(live, "STREAMS", 1)
    with Monitor(settings(tmp_path)) as monitor:
        with stream(monitor, "?after=0") as news:
            next(news)
            assert ask(monitor, "/api/v1/events").status == 503
        until(lambda: monitor.app.state.live.streams == 0)


def test_closing_the_monitor_ends_its_streams(tmp_path: Path) -> None:
    record(tmp_path)
    monitor = Monitor(settings(tmp_path))
    with stream(monitor, "?after=0") as news:
        next(news)
        monitor.close()
        assert list(news) == []


def test_the_stream_needs_the_token_like_everything(tmp_path: Path) -> None:
    record(tmp_path)
    with Monitor(settings(tmp_path, TOKEN)) as monitor:
        assert ask(monitor, "/api/v1/events").status == 401
        with stream(monitor, "?after=0", authorization=f"Bearer {TOKEN}") as news:
            assert next(news)["runs"] == ["countdown-1"]


def test_a_ping_keeps_an_idle_stream_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PING_SECONDS", 0.2)
    record(tmp_path)
    with Monitor(settings(tmp_path)) as monitor:
        connection = http.client.HTTPConnection("127.0.0.1", monitor.port, timeout=PATIENT)
        connection.request("GET", "/api/v1/events")
        response = connection.getresponse()
        until(lambda: response.readline() == b": ping\n")
        connection.close()
