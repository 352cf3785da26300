"""Starting it, the files of the pages, and a home whose database is missing, older, newer, or nothing of ours."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.monitor import reading
from runner.monitor.server import AddressTaken, Monitor, serves
from runner.store.store import Store
from tests.cli.kit import cli, command, environment
from tests.monitor.kit import TOKEN, ask, raw, record, settings
from tests.monitor.test_live import until

INDEX = '<!doctype html><meta name="csp-nonce" content="__CSP_NONCE__"><script type="module" src="./assets/m-1.js">'


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text(INDEX)
    (folder / "assets" / "m-1.js").write_text("export {}")
    (folder / "secret.txt").write_text("not of the bundle")
    (tmp_path / "outside.js").write_text("outside")
    (folder / "assets" / "link.js").symlink_to(tmp_path / "outside.js")
    return folder


def test_the_page_has_the_nonce_of_its_own_answer(tmp_path: Path, dist: Path) -> None:
    with Monitor(settings(tmp_path), dist=dist) as monitor:
        answer = ask(monitor, "/")
        nonce = answer.text.split('content="')[1].split('"')[0]
        assert len(nonce) == 22
        assert f"'nonce-{nonce}'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"


def test_files_with_a_hash_in_their_name_are_kept_for_ever(tmp_path: Path, dist: Path) -> None:
    with Monitor(settings(tmp_path), dist=dist) as monitor:
        answer = ask(monitor, "/assets/m-1.js")
        assert (answer.status, answer.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
        assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")


@pytest.mark.parametrize(
    "path",
    ["/assets/../../outside.js", "/assets/%2e%2e/%2e%2e/outside.js", "/..%2foutside.js", "//etc/passwd",
     "/assets/link.js", "/secret.txt", "/assets", "/assets/", "/assets/m-1.js%00", "/assets/none.js", "/index.html/x",
     "/%2fetc%2fpasswd"],
)  # fmt: skip
def test_nothing_but_the_bundle_is_given(tmp_path: Path, dist: Path, path: str) -> None:
    with Monitor(settings(tmp_path), dist=dist) as monitor:
        answer = raw(monitor, f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close")
        assert answer.status == 404


def test_pages_that_are_not_built_say_so_and_the_api_answers(tmp_path: Path) -> None:
    record(tmp_path)
    with Monitor(settings(tmp_path), dist=tmp_path / "none") as monitor:
        answer = ask(monitor, "/")
        assert answer.status == 503
        assert "npm run build" in answer.text
        assert ask(monitor, "/api/v1/runs").status == 200


def newer(path: Path) -> None:
    with Store.open(path) as store:
        store.db.conn.execute("INSERT INTO _sqlite_migrations VALUES (99, 'runner', 'm099_later', 'then')")


def older(path: Path) -> None:
    with Store.open(path) as store:
        store.db.conn.execute("DELETE FROM _sqlite_migrations WHERE name = 'm002_lookups'")


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")


def damaged(path: Path) -> None:
    path.write_bytes(b"garbage " * 1000)


@pytest.mark.parametrize(
    ("make", "code", "way_out"),
    [
        (lambda path: None, "database_missing", "the first `runner run` or `emulate` makes it"),
        (newer, "database_newer", "upgrade this one"),
        (older, "database_older", "`runner ls` brings it up to date"),
        (foreign, "database_foreign", "move it away"),
        (damaged, "database_damaged", "`runner db rebuild` restores it"),
    ],
)
def test_a_database_that_is_not_to_be_read_is_told_with_the_way_out(
    tmp_path: Path, make: Callable[[Path], None], code: str, way_out: str
) -> None:
    path = tmp_path / ".runner" / "runner.db"
    path.parent.mkdir()
    make(path)
    before = path.read_bytes() if path.exists() else None
    with Monitor(settings(tmp_path)) as monitor:
        for page in ("runs", "jobs", "runs/countdown-1", "runs/countdown-1/completions"):
            answer = ask(monitor, f"/api/v1/{page}")
            assert (answer.status, answer.code) == (503, code)
            assert way_out in answer.json["detail"]
        assert ask(monitor, "/api/v1/home").status == 200
        until(lambda: ask(monitor, "/api/v1/home").json["problems"])
    assert (path.read_bytes() if path.exists() else None) == before


def test_a_home_that_gets_its_database_later_is_shown_then(tmp_path: Path) -> None:
    with Monitor(settings(tmp_path)) as monitor:
        assert ask(monitor, "/api/v1/runs").code == "database_missing"
        record(tmp_path)
        assert len(ask(monitor, "/api/v1/runs").json["runs"]) == 1
        until(lambda: not ask(monitor, "/api/v1/home").json["problems"])


def test_a_question_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "QUERY_SECONDS", -1.0)
    monkeypatch.setattr(reading, "QUERY_STEPS", 1)
    record(tmp_path)
    with Monitor(settings(tmp_path)) as monitor:
        answer = ask(monitor, "/api/v1/runs/countdown-1/completions")
        assert (answer.status, answer.code) == (503, "too_slow")


def test_a_port_that_is_taken_is_told_with_the_way_out(tmp_path: Path) -> None:
    told = "Address already in use; `--port 0` takes a free one"
    with Monitor(settings(tmp_path)) as monitor, pytest.raises(AddressTaken, match=f":{monitor.port}: {told}"):
        Monitor(settings(tmp_path), port=monitor.port)


def test_a_monitor_is_known_by_its_home_and_port_while_it_runs(tmp_path: Path) -> None:
    record(tmp_path / "a")
    record(tmp_path / "b")
    with Monitor(settings(tmp_path / "a")) as monitor:
        assert serves(settings(tmp_path / "a"), monitor.port)
        assert not serves(settings(tmp_path / "b"), monitor.port)
    assert not serves(settings(tmp_path / "a"), monitor.port)


def test_ipv6_loopback_is_served(tmp_path: Path) -> None:
    try:
        monitor = Monitor(settings(tmp_path, TOKEN), host="::1")
    except AddressTaken:
        pytest.skip("no IPv6 here")
    with monitor:
        assert monitor.url == f"http://[::1]:{monitor.port}/"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--host", "0.0.0.0"], "--allowed-host NAME"),
        (["--host", "192.0.2.1"], "ssh -L"),
        (["--host", "0.0.0.0", "--allowed-host", "box", "--no-token"], "--no-token is for the loopback only"),
        (["--allow-edit", "--no-token"], "--allow-edit needs the token"),
    ],
)
def test_doors_are_not_opened_by_accident(tmp_path: Path, options: list[str], told: str) -> None:
    done = cli("ui", *options, "--home", tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert told in " ".join(done.stderr.replace("│", " ").split())


def test_runner_ui_prints_a_link_prints_another_when_asked_again_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    with subprocess.Popen(
        command("ui", "--port", "0"), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        link = process.stdout.readline().strip()
        port = link.split(":")[2].split("/")[0]
        again = cli("ui", "--port", port, cwd=tmp_path)
        other = cli("ui", "--port", port, "--home", "jobs", cwd=tmp_path)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert link.startswith(f"http://127.0.0.1:{port}/?token=")
    assert again.returncode == 0
    assert again.stdout.startswith(f"http://127.0.0.1:{port}/?token=")
    assert again.stdout.strip() != link
    assert "is running already" in again.stderr
    assert other.returncode == 2
    assert "Address already in use" in other.stderr
    assert process.returncode == 0
    assert "the link works once" in told
    assert (tmp_path / ".runner" / ".gitignore").read_text() == "*\n"
