from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runner.rewards import processes
from runner.rewards.bundle import build, write
from runner.rewards.contract import GroupCall, Outcome
from runner.rewards.host import RewardHost, RewardLoadError
from runner.spec.model import Reward
from tests.rewards.helpers import group, open_files, processes_with, version_of, within


def host_of(folder: Path, source: str, workers: int = 2, seed: int = 0, **options: object) -> RewardHost:
    return RewardHost(version_of(folder, source, **options), seed=seed, workers=workers)


def load_error(folder: Path, source: str) -> RewardLoadError:
    before = open_files()
    with pytest.raises(RewardLoadError) as caught:
        host_of(folder, source)
    assert processes_with(str(folder)) == [] and open_files() == before
    return caught.value


# ------------------------------------------------------------------------------------------------ what a call gets


def test_scores_are_group_major_with_a_column_for_each_function(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(
        "def length(p, c, e):\n    return len(c)\ndef place(p, c, e):\n    return {'score': e['n'], 'reason': p + c}\n"
    )
    rewards = {"place": Reward(fn="rewards.py:place"), "length": Reward(fn="rewards.py:length", weight=0)}
    bundle = build(rewards, tmp_path)
    with RewardHost(write(bundle, tmp_path / "versions"), seed=0) as host:
        assert (host.version, host.functions) == (bundle.sha256, bundle.functions)
        groups = [
            GroupCall(prompt=f"p{n}-", example={"n": n}, completions=["x" * k for k in range(n)]) for n in range(40)
        ]
        rows = host.score(groups, step=1, split="train")
        assert host.score([], step=1, split="train") == []
    assert [[(s.name, s.value, s.reason) for s in row] for row in rows] == [
        [("place", float(n), f"p{n}-" + "x" * k), ("length", float(k), None)] for n in range(40) for k in range(n)
    ]


def test_every_call_gets_a_fresh_example_in_native_types(tmp_path: Path) -> None:
    source = """
    def score(prompt, completion, example):
        assert example == {"n": 1, "x": 0.5, "ok": True, "none": None, "list": [1, {"a": "b"}]}, example
        example["list"][1]["a"] = example.pop("n")
        return 1
    """
    example = {"n": 1, "x": 0.5, "ok": True, "none": None, "list": [1, {"a": "b"}]}
    with host_of(tmp_path, source, workers=1) as host:
        rows = host.score([group(["a", "b", "c"], example)], step=0, split="train")
    assert [row[0].value for row in rows] == [1.0, 1.0, 1.0]


def test_ctx_is_given_to_a_function_that_takes_it(tmp_path: Path) -> None:
    source = """
    def score(prompt, completion, example, *, ctx):
        return {"score": ctx.step, "reason": f"{ctx.split} {ctx.finish} {ctx.messages[0]['content']}"}
    """
    call = GroupCall(
        prompt="p",
        example={},
        completions=["a", "b"],
        finish=["eos", "length"],
        messages=[{"role": "user", "content": "hi"}],
    )
    with host_of(tmp_path, source) as host:
        rows = host.score([call], step=7, split="eval")
    assert [(row[0].value, row[0].reason) for row in rows] == [(7.0, "eval eos hi"), (7.0, "eval length hi")]


@pytest.mark.parametrize("imported", ["first", "in the call"])
def test_random_numbers_depend_on_the_call_and_the_seed_only(tmp_path: Path, imported: str) -> None:
    source = f"""
    {"import random" if imported == "first" else ""}
    def score(prompt, completion, example):
        {"import random" if imported == "in the call" else ""}
        return random.random()
    """

    def values(workers: int, seed: int, step: int = 1) -> list[float | None]:
        with host_of(tmp_path, source, workers, seed) as host:
            return [row[0].value for row in host.score([group("abcd"), group("abcd")], step=step, split="train")]

    first = values(1, 0)
    assert values(3, 0) == first and len(set(first)) == 8
    assert not set(first) & set(values(1, 1)) and not set(first) & set(values(1, 0, step=2))


def test_nothing_of_the_trainers_environment_reaches_a_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    secret = os.memfd_create("secret")
    source = """
    import os, sys
    def score(prompt, completion, example):
        files = [os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")]
        print(sorted(os.environ), os.getcwd() == os.environ["HOME"], sys.flags.hash_randomization)
        print([file for file in files if "secret" in file], sys.stdin.read())
        return 1
    """
    with host_of(tmp_path, source) as host:
        ((score,),) = host.score([group(["a"])], step=0, split="train")
    os.close(secret)
    assert score.output and "API_KEY" not in score.output and "PYTHONPATH" not in score.output
    assert score.output.endswith("'TOKENIZERS_PARALLELISM'] True 0\n[] \n")


def test_async_functions_run_to_completion(tmp_path: Path) -> None:
    source = """
    import asyncio
    async def score(prompt, completion, example):
        await asyncio.sleep(0.001)
        if completion == "b":
            raise ValueError("no b")
        if completion == "c":
            await asyncio.sleep(60)
        return len(completion)
    """
    with host_of(tmp_path, source, timeout=0.2) as host:
        rows = host.score([group(["a", "b", "c", "dd"])], step=0, split="train")
    assert [(row[0].outcome, row[0].value) for row in rows] == [
        (Outcome.OK, 1.0),
        (Outcome.EXCEPTION, None),
        (Outcome.TIMEOUT, None),
        (Outcome.OK, 2.0),
    ]


def test_setup_runs_once_in_each_worker(tmp_path: Path) -> None:
    source = """
    calls = []
    def setup():
        calls.append(1)
    def score(prompt, completion, example):
        return len(calls)
    """
    with host_of(tmp_path, source) as host:
        rows = host.score([group("abcdefgh")] * 4, step=0, split="train")
    assert [row[0].value for row in rows] == [1.0] * 32


def test_rewards_may_use_modules_beside_them_and_their_own_package(tmp_path: Path) -> None:
    job = tmp_path / "job"
    (job / "pkg").mkdir(parents=True)
    (job / "pkg" / "__init__.py").write_text("from .two import TWO\n")
    (job / "pkg" / "two.py").write_text("TWO = 2\n")
    source = "import pkg\ndef score(p, c, e):\n    from pkg.two import TWO\n    return pkg.TWO + TWO\n"
    version = version_of(tmp_path, source)
    with RewardHost(version, seed=0) as host:
        assert host.score([group(["a"])], step=0, split="train")[0][0].value == 4.0
    assert not list(version.rglob("__pycache__"))


def test_on_error_zero_scores_zero_and_keeps_the_outcome(tmp_path: Path) -> None:
    with host_of(tmp_path, "def score(p, c, e):\n    return 1 / len(c)\n", on_error="zero") as host:
        rows = host.score([group(["", "a"])], step=0, split="train")
    assert [(row[0].outcome, row[0].value) for row in rows] == [(Outcome.EXCEPTION, 0.0), (Outcome.OK, 1.0)]


def test_an_error_shows_the_rewards_own_lines_and_what_caused_it(tmp_path: Path) -> None:
    source = """
    import json
    def parse(text):
        return json.loads(text)
    def score(prompt, completion, example):
        try:
            return parse(completion)
        except ValueError as error:
            raise RuntimeError("not JSON") from error
    """
    with host_of(tmp_path, source) as host:
        ((score,),) = host.score([group(["{"])], step=0, split="train")
    lines = (score.error or "").splitlines()
    assert lines[:5] == [
        "RuntimeError: not JSON",
        "  rewards.py:9 in score",
        '    raise RuntimeError("not JSON") from error',
        "caused by JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        "  rewards.py:7 in score",
    ]
    assert "worker.py" not in (score.error or "")


# ------------------------------------------------------------------------------------------------ load errors


def test_an_import_that_fails_is_reported_with_its_line(tmp_path: Path) -> None:
    error = load_error(tmp_path, "print('loading')\nimport numpyy\ndef score(p, c, e): ...\n")
    (finding,) = error.findings
    assert (finding.code, finding.file, finding.line) == ("reward-import", "rewards.py", 2)
    assert finding.message == "ModuleNotFoundError: No module named 'numpyy'"
    assert error.detail.endswith("  rewards.py:2 in <module>\n    import numpyy\noutput:\nloading\n")


@pytest.mark.parametrize(
    ("source", "message", "line"),
    [
        ("x = 1\nraise SystemExit(3)\ndef score(p, c, e): ...", "SystemExit: 3", 2),
        ("import os\nos._exit(0)\ndef score(p, c, e): ...", "the import ended its process: it exited with status 0", 0),
        ("import os\nos.abort()\ndef score(p, c, e): ...", "the import ended its process: it was killed by SIGABRT", 0),
        ("score = 3", "TypeError: rewards.score is no function", 0),
        ("if False:\n    def score(p, c, e): ...", "AttributeError: module 'rewards' has no attribute 'score'", 0),
        ("def setup():\n    1 / 0\ndef score(p, c, e): ...", "ZeroDivisionError: division by zero", 2),
    ],
)
def test_rewards_that_cant_start_say_why(tmp_path: Path, source: str, message: str, line: int) -> None:
    (finding,) = load_error(tmp_path, source).findings
    assert (finding.message, finding.file, finding.line) == (message, "rewards.py", line)


def test_an_import_that_was_killed_is_tried_once_more(tmp_path: Path) -> None:
    killed = """
    import os, pathlib, signal
    starts = pathlib.Path.home() / "starts"
    starts.write_text((starts.read_text() if starts.exists() else "") + "x")
    if len(starts.read_text()) < KILLS:
        os.kill(os.getpid(), signal.SIGKILL)
    def score(p, c, e): return 1
    """
    with host_of(tmp_path, killed.replace("KILLS", "2")) as once:
        assert [score.value for score in once.score([group(["a"])], step=1, split="train")[0]] == [1.0]
    (finding,) = load_error(tmp_path / "again", killed.replace("KILLS", "3")).findings
    assert finding.message == "the import ended its process: it was killed by SIGKILL"


def test_an_import_that_hangs_is_stopped_and_shows_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "START_SECONDS", 0.5)
    error = load_error(tmp_path, "import time\nprint('hm')\ntime.sleep(60)\ndef score(p, c, e): ...\n")
    assert error.detail == "the import took longer than 0.5 s\n  rewards.py:3 in <module>\noutput:\nhm\n"
    assert [(finding.file, finding.line) for finding in error.findings] == [("rewards.py", 3)]


def test_an_import_that_starts_threads_is_done_in_each_worker(tmp_path: Path) -> None:
    source = """
    import os, threading
    pid = os.getpid()
    lock = threading.Lock()
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    def score(prompt, completion, example):
        return os.getpid() == pid and threading.active_count()
    """
    with host_of(tmp_path, source) as host:
        rows = host.score([group(["a", "b"])], step=0, split="train")
    assert [row[0].value for row in rows] == [2.0, 2.0]


# ------------------------------------------------------------------------------------------------ processes


def test_a_thousand_hangs_do_not_cost_a_thousand_deadlines(tmp_path: Path) -> None:
    with host_of(tmp_path, "import time\ndef score(p, c, e):\n    time.sleep(60)\n", timeout=0.1) as host:
        started = time.monotonic()
        rows = host.score([group("abcdefgh") for _ in range(125)], step=0, split="train")
        seconds = time.monotonic() - started
    assert {row[0].outcome for row in rows} == {Outcome.TIMEOUT}
    unstarted = [row[0] for row in rows if row[0].error == "not started: 6 calls in a row timed out"]
    assert 985 <= len(unstarted) <= 994 and {score.seconds for score in unstarted} == {0.0}
    assert seconds < 3


def test_hangs_of_one_group_are_waited_for_side_by_side(tmp_path: Path) -> None:
    source = "import time\ndef score(p, c, e):\n    return time.sleep(60) if c == 'x' else 1\n"
    with host_of(tmp_path, source, workers=4, timeout=0.4) as host:
        started = time.monotonic()
        rows = host.score([group("axbxcxdx")], step=0, split="train")
        seconds = time.monotonic() - started
    assert [row[0].value for row in rows] == [1.0, None] * 4
    assert seconds < 1.2


def test_a_crash_that_a_call_left_behind_does_not_count_against_the_next(tmp_path: Path) -> None:
    source = """
    import os, signal
    def score(prompt, completion, example):
        if completion == "a":
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, 0.02)
        else:
            for _ in range(10**7 if signal.getitimer(signal.ITIMER_REAL)[0] else 0):
                pass
        return 1
    """
    with host_of(tmp_path, source, workers=1) as host:
        rows = host.score([group("ab")], step=0, split="train")
    assert [row[0].outcome for row in rows] == [Outcome.OK, Outcome.OK]


def test_a_lost_zygote_is_replaced(tmp_path: Path) -> None:
    with host_of(tmp_path, "def score(p, c, e):\n    return 1\n") as host:
        for _ in range(3):
            assert host._zygote is not None
            host._zygote.kill()
            rows = host.score([group("abcd")] * 8, step=0, split="train")
            assert [row[0].value for row in rows] == [1.0] * 32


def test_a_zygote_that_is_stuck_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules["runner.rewards.host"].SECONDS_IN, processes.State.DYING, 0.3)
    source = """
    import os
    def score(prompt, completion, example):
        if completion == "b":
            os._exit(1)
        return 1
    """
    with host_of(tmp_path, source) as host:
        assert host._zygote is not None
        host._zygote._process.send_signal(signal.SIGSTOP)
        rows = host.score([group("abcd")], step=0, split="train")
        assert [row[0].outcome for row in rows] == [Outcome.OK, Outcome.KILLED, Outcome.OK, Outcome.OK]
    assert processes_with(str(tmp_path)) == []


def test_workers_that_can_never_start_again_are_our_failure(tmp_path: Path) -> None:
    source = """
    import os
    def setup():
        if os.path.exists("used"):
            raise OSError("no more")
    def score(prompt, completion, example):
        open("used", "w").close()
        os._exit(1)
    """
    with host_of(tmp_path, source, workers=1) as host:
        rows = host.score([group("abcdefgh")], step=0, split="train")
    assert {row[0].outcome for row in rows} <= {Outcome.INFRASTRUCTURE, Outcome.KILLED}
    assert rows[-1][0].error and rows[-1][0].error.startswith("OSError: no more\n  rewards.py:5 in setup")


def test_an_interrupted_batch_does_not_spoil_the_next(tmp_path: Path) -> None:
    source = "import time\ndef score(p, c, e):\n    return time.sleep(60) if c == 'x' else len(c)\n"

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        with host_of(tmp_path, source) as host:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(KeyboardInterrupt):
                host.score([group("axbx")], step=0, split="train")
            rows = host.score([group(["a", "bb", "ccc"])], step=1, split="train")
    finally:
        signal.signal(signal.SIGALRM, old)
    assert [row[0].value for row in rows] == [1.0, 2.0, 3.0]


def test_closing_leaves_no_process_file_or_folder(tmp_path: Path) -> None:
    before = open_files()
    with host_of(tmp_path, "def score(p, c, e):\n    return 1\n", workers=4) as host:
        scratch = host._scratch
        assert within(1, lambda: len(processes_with(str(scratch))) == 6)
        host.score([group("ab")], step=0, split="train")
    host.close()
    assert processes_with(str(scratch)) == [] and open_files() == before and not scratch.exists()


TRAINER = """
import os, sys
from pathlib import Path
from runner.rewards.contract import GroupCall
from runner.rewards.host import RewardHost
from runner.rewards.sandbox import Sandbox, Settings
settings = Settings(sandbox=Sandbox(subprocess=True))
host = RewardHost(Path(sys.argv[1]), seed=0, scratch=Path(sys.argv[3]), settings=settings)
if sys.argv[2] == "forked" and os.fork() == 0:  # it holds the trainer's descriptors
    os.chdir("/")
    import time; time.sleep(3); os._exit(0)
host.score([GroupCall(prompt="", example={}, completions=["a", "b", "c"])], step=0, split="train")
"""


@pytest.mark.parametrize("case", ["plain", "forked", "import"])
def test_a_trainer_killed_with_9_leaves_nothing_within_a_second(tmp_path: Path, case: str) -> None:
    source = f"""
    import os, subprocess, time
    def busy():
        if os.fork() == 0:
            os.setsid()
        subprocess.Popen(["sleep", "60"], start_new_session=True)
        open("busy", "w").close()
        while True:
            pass
    def score(prompt, completion, example):
        busy()
    {"open('busy', 'w').close(); time.sleep(60)" if case == "import" else ""}
    """
    version, scratch = version_of(tmp_path, source), tmp_path / "scratch"
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER, str(version), case, str(scratch)])
    assert within(10, (scratch / "busy").exists)
    assert len(processes_with(str(scratch))) >= (2 if case == "import" else 4)
    trainer.kill()
    trainer.wait()
    mine = [f"{version}", str(scratch)]
    assert within(
        1, lambda: not [pid for text in mine for pid in processes_with(text) if case != "forked" or _is_reward(pid)]
    )


def _is_reward(pid: int) -> bool:
    try:
        return "-c" not in Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return False  # it has just gone
