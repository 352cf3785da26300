"""What reward code may reach: refused and said, opened by the job, and told as it is where a system lacks the means."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.rewards.contract import Outcome, Score
from runner.rewards.guarantees import check, unmet
from runner.rewards.host import RewardHost
from runner.rewards.sandbox import Settings
from runner.spec.sandbox import Ports, Sandbox
from tests.rewards.helpers import group, needs_sandbox, version_of

NAMES = ["memory", "network", "filesystem", "secrets", "signals", "subprocess"]


def only_score(folder: Path, source: str, sandbox: Sandbox, example: dict[str, object] | None = None) -> Score:
    settings = Settings(sandbox=sandbox, job_folder=folder)
    with RewardHost(version_of(folder, source), seed=0, workers=1, settings=settings) as host:
        return host.score([group(["a"], example)], step=0, split="train")[0][0]


@pytest.fixture
def port() -> Iterator[int]:
    """A TCP port that says hello."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.sendall(b"hello")
                connection.close()

        threading.Thread(target=greet, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


CALLS = """
import socket
def score(prompt, completion, example):
    with socket.create_connection(("127.0.0.1", example["port"]), timeout=5) as it:
        return {"score": 1, "reason": it.recv(5).decode()}
"""


@needs_sandbox
def test_the_network_is_off_until_the_job_opens_it(tmp_path: Path, port: int) -> None:
    closed = only_score(tmp_path / "a", CALLS, Sandbox(), {"port": port})
    assert closed.outcome == Outcome.EXCEPTION
    assert closed.error and closed.error.splitlines()[:2] == [
        "PermissionError: [Errno 13] Permission denied",
        "  network is off for rewards; `sandbox: {network: true}` in the job opens it",
    ]
    assert only_score(tmp_path / "b", CALLS, Sandbox(network=True), {"port": port}).reason == "hello"


@needs_sandbox
def test_only_the_ports_that_the_job_names_are_reached(tmp_path: Path, port: int) -> None:
    assert only_score(tmp_path / "a", CALLS, Sandbox(network=Ports(ports=[port])), {"port": port}).reason == "hello"
    refused = only_score(tmp_path / "b", CALLS, Sandbox(network=Ports(ports=[443])), {"port": port})
    assert refused.error and "rewards may reach TCP ports 443 only; `sandbox.network` in the job" in refused.error


@needs_sandbox
def test_a_file_is_read_once_the_job_names_it(tmp_path: Path) -> None:
    source = "def score(p, c, e):\n    return {'score': 1, 'reason': open(e['path']).read()}\n"
    words = tmp_path / "words" / "list.txt"
    words.parent.mkdir()
    words.write_text("apple")
    example = {"path": str(words)}
    refused = only_score(tmp_path / "a", source, Sandbox(), example)
    assert refused.error and f"`sandbox: {{files: [{words}]}}` in the job opens a path for reading" in refused.error
    assert only_score(tmp_path, source, Sandbox(files=["words"]), example).reason == "apple"
    written = "def score(p, c, e):\n    return open(e['path'], 'w')\n"
    assert only_score(tmp_path / "b", written, Sandbox(files=[str(words)]), example).outcome == Outcome.EXCEPTION


@needs_sandbox
def test_processes_run_once_the_job_allows_them(tmp_path: Path) -> None:
    source = """
    import subprocess
    def score(prompt, completion, example):
        return {"score": 1, "reason": subprocess.run(["echo", "hi"], capture_output=True, text=True).stdout}
    """
    assert only_score(tmp_path / "a", source, Sandbox()).outcome == Outcome.EXCEPTION
    assert only_score(tmp_path / "b", source, Sandbox(subprocess=True)).reason == "hi\n"


@needs_sandbox
def test_a_child_process_is_as_confined_as_the_reward(tmp_path: Path) -> None:
    source = """
    import subprocess
    def score(prompt, completion, example):
        return {"score": 1, "reason": subprocess.run(["cat", "/etc/shadow"], capture_output=True, text=True).stderr}
    """
    reason = only_score(tmp_path, source, Sandbox(subprocess=True)).reason
    assert reason and "Permission denied" in reason


def test_only_named_variables_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_URL", "http://judge")
    monkeypatch.setenv("OTHER", "x")
    source = """
    import os
    def score(prompt, completion, example):
        return {"score": "OTHER" in os.environ, "reason": os.environ["JUDGE_URL"]}
    """
    said = only_score(tmp_path, source, Sandbox(env=["JUDGE_URL", "NOT_SET"]))
    assert (said.value, said.reason) == (0.0, "http://judge")


@needs_sandbox
def test_memory_is_what_the_job_says(tmp_path: Path) -> None:
    source = "def score(p, c, e):\n    return len(bytearray(e['mb'] << 20)) >> 20\n"
    assert only_score(tmp_path / "a", source, Sandbox(memory_mb=512), {"mb": 300}).value == 300.0
    refused = only_score(tmp_path / "b", source, Sandbox(memory_mb=256), {"mb": 300})
    assert refused.error and "a reward process may have 256 MiB" in refused.error


def test_a_reward_that_leaks_gets_fresh_workers(tmp_path: Path) -> None:
    source = """
    kept = []
    def score(prompt, completion, example):
        kept.append(bytearray(b"x") * (60 << 20))
        return len(kept)
    """
    settings = Settings(sandbox=Sandbox(memory_mb=512))
    with RewardHost(version_of(tmp_path, source), seed=0, workers=1, settings=settings) as host:
        rows = host.score([group("abcd")] * 10, step=0, split="train")
    assert [row[0].outcome for row in rows] == [Outcome.OK] * 40
    assert max(row[0].value or 0 for row in rows) < 9


@needs_sandbox
def test_what_is_imported_is_confined_as_well(tmp_path: Path) -> None:
    source = "import socket\ntry:\n    socket.socket()\nexcept PermissionError as error:\n    said = str(error)\n"
    said = only_score(tmp_path, source + "def score(p, c, e):\n    return {'score': 1, 'reason': said}\n", Sandbox())
    assert said.reason == "[Errno 13] Permission denied"


# ------------------------------------------------------------------------------------------------ guarantees


@needs_sandbox
def test_every_guarantee_is_found_by_trying() -> None:
    assert [(kept.name, kept.state) for kept in check(Sandbox())] == [(name, "enforced") for name in NAMES]


@needs_sandbox
def test_what_the_job_opens_is_said_to_be_open() -> None:
    opened = {kept.name: kept for kept in check(Sandbox(network=True, subprocess=True)) if kept.state == "open"}
    assert {name: kept.why for name, kept in opened.items()} == {
        "network": "sandbox.network: true",
        "subprocess": "sandbox.subprocess: true",
    }
    assert unmet(Sandbox(require=["network", "memory"]), check(Sandbox())) == []
    with pytest.raises(ValueError, match="requires `network` and opens it"):
        Sandbox(network=True, require=["network"])


WITHOUT = """
import errno, json, sys
from runner.rewards import confine, seccomp
from runner.rewards.guarantees import check, unmet
from runner.spec.sandbox import Sandbox
confine._prctl(confine.PR_SET_NO_NEW_PRIVS, 1)
seccomp.install([seccomp.refuse(name, errno.ENOSYS) for name in sys.argv[1:]])
sandbox = Sandbox(require=["filesystem"])
found = check(sandbox)
print(json.dumps([{kept.name: [kept.state, kept.why] for kept in found}, unmet(sandbox, found)]))
"""


@needs_sandbox
def test_without_landlock_the_other_layers_hold_and_the_rest_is_reported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "landlock_create_ruleset"], capture_output=True, text=True, check=True
    )
    found, lacking = json.loads(done.stdout)
    assert found["filesystem"] == [
        "not enforced",
        "could read a file outside, write a file outside; landlock: Landlock: not offered by this kernel",
    ]
    assert [name for name in NAMES if found[name][0] == "enforced"][:2] == ["memory", "network"]
    assert found["subprocess"][0] == "enforced"
    (said,) = lacking
    assert said.startswith("sandbox.require: filesystem is not enforced on this machine: could read a file outside")
    assert "Run it where `runner doctor` shows it as enforced" in said


@needs_sandbox
def test_rewards_run_where_a_layer_is_missing(tmp_path: Path) -> None:
    version = version_of(tmp_path, "def score(p, c, e):\n    return len(c)\n")
    code = WITHOUT.partition("sandbox =")[0] + (
        "from pathlib import Path\nfrom runner.rewards.host import RewardHost\n"
        "from runner.rewards.contract import GroupCall\n"
        f"with RewardHost(Path({str(version)!r}), seed=0) as host:\n"
        "    rows = host.score([GroupCall(prompt='', example={}, completions=['a', 'bb'])], step=0, split='train')\n"
        "    print([row[0].value for row in rows])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "landlock_create_ruleset"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[1.0, 2.0]\n"
