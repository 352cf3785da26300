"""The watch shows the pages of `runner ui`, and does its work without them as well."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path

import pytest

from runner.monitor.token import link, read_or_make
from tests.small_job import write_job
from tests.watch.kit import WatchProcess


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "jobs").mkdir()
    return tmp_path


def test_a_watch_shows_the_pages_on_the_loopback_to_who_has_a_link(home: Path) -> None:
    watch = WatchProcess(home, "--emulate", "--ui-port", "0")
    address = watch.wait_for("pages")["address"]
    assert address.startswith("http://127.0.0.1:")
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with opener.open(link(address, read_or_make(home / ".runner")), timeout=10) as answer:
        assert answer.status == 200 and "<html" in answer.read().decode()
    assert all("token=" not in str(said) for said in watch.said), "no key of a link is logged"
    assert watch.end() == 0


def test_a_watch_whose_pages_find_their_port_taken_says_so_and_runs_the_jobs(home: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        watch = WatchProcess(home, "--emulate", "--ui-port", str(other.getsockname()[1]))
        said = watch.wait_for("pages_unavailable")
        assert "--ui-port" in said["hint"]
        write_job(home)
        watch.wait_for("run", run="sums-1", state="succeeded")
        assert watch.end() == 0
