"""One bad call among seven good ones: eight records, seven right values, and nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runner.rewards.contract import GroupCall, Outcome, Score
from runner.rewards.host import RewardHost
from tests.rewards.helpers import group, open_files, processes_with, version_of, within

SOURCE = """
import asyncio, atexit, ctypes, decimal, fractions, json, os, re, signal, struct, subprocess, sys, threading, time
from itertools import repeat

class Spoiled(Exception):
    def __str__(self):
        raise SystemExit("no")

class BadFloat:
    def __float__(self):
        raise KeyError("no float")

class SlowFloat:
    def __float__(self):
        time.sleep(60)

class ZeroD:
    ndim = 0
    def __float__(self):
        return 2.5

class OneD:
    ndim = 1
    def __float__(self):
        return 2.5

def spin():
    while True:
        pass

def spin_bare_except():
    while True:
        try:
            while True:
                pass
        except:
            pass

def blocked():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(60)

def deadlock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

def hang_with_output():
    print("so far")
    time.sleep(60)

def recurse():
    return recurse()

def write_to_all(data):
    for fd in range(3, 1024):
        try:
            os.write(fd, data)
        except OSError:
            pass
    return 1

def forged(fields):
    body = json.dumps(fields).encode()
    return struct.pack("<I", len(body)) + body

def replace_streams():
    sys.stdout = sys.stderr = None
    return 1.0

def close_streams():
    print("closing")
    sys.stdout.close(); sys.stderr.close()
    return 1.0

def fork_and_return():
    os.fork()
    return 1.0

def daemonise():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(60)
        os._exit(0)
    os.wait()
    return 1.0

def leave_child():
    subprocess.Popen(["sleep", "60"])
    return 1.0

def leave_thread():
    threading.Thread(target=time.sleep, args=(60,)).start()
    return 1.0

def atexit_hang():
    atexit.register(time.sleep, 60)
    return 1.0

def swallow_usr1():
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    time.sleep(60)

def alarm_later():
    def late(*_):
        raise RuntimeError("late")
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 0.002)
    return 1.0

def write_surrogates():
    print("a\\udc80\\0b\\u00e9")
    return 1.0

def write_binary():
    os.write(1, bytes(range(256)))
    return 1.0

def throw(error):
    raise error

def coroutine():
    async def later():
        await asyncio.sleep(0)
        return 3
    return later()

def async_generator():
    async def later():
        yield 1
    return later()

CASES = {
    "sleep": lambda: time.sleep(60),
    "spin": spin,
    "spin_bare_except": spin_bare_except,
    "c_loop": lambda: sum(repeat(0)),
    "power": lambda: 9**9**9,
    "regex": lambda: re.match("(a+)+$", "a" * 60 + "b"),
    "blocked": blocked,
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "deadlock": deadlock,
    "slow_float": SlowFloat,
    "hang_with_output": hang_with_output,
    "swallow_usr1": swallow_usr1,
    "segv": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "exit_0": lambda: os._exit(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "kill_group": lambda: os.killpg(0, signal.SIGKILL),
    "kill_parent": lambda: (os.kill(os.getppid(), signal.SIGKILL), time.sleep(60)),
    "garbage": lambda: write_to_all(b"garbage"),
    "huge": lambda: write_to_all(struct.pack("<I", 2**31) + b"x"),
    "forged_other": lambda: write_to_all(forged([7, "ok", 999.0, None, None, None, 0.0])),
    "forged_nan": lambda: write_to_all(forged([3, "ok", float("nan"), None, None, None, 0.0])),
    "forged_types": lambda: write_to_all(forged([3, "ok", True, [], {}, 1, "x"])),
    "forged_own": lambda: (write_to_all(forged([3, "ok", 999.0, None, None, None, 0.0])), 1)[1],
    "forged_deep": lambda: write_to_all(struct.pack("<I", 200000) + b"[" * 200000),
    "close_all": lambda: os.closerange(0, 4096),
    "sys_exit": lambda: sys.exit(3),
    "interrupt": lambda: throw(KeyboardInterrupt()),
    "generator_exit": lambda: throw(GeneratorExit()),
    "spoiled": lambda: throw(Spoiled()),
    "long_message": lambda: throw(ValueError("x" * 10**8)),
    "recursion": recurse,
    "memory_error": lambda: bytearray(2**62),
    "none": lambda: None,
    "nan": lambda: float("nan"),
    "infinite": lambda: float("-inf"),
    "too_large": lambda: 10**400,
    "text": lambda: "1.0",
    "bytes": lambda: b"1",
    "list": lambda: [1],
    "complex": lambda: 1j,
    "object": object,
    "bad_float": BadFloat,
    "one_d": OneD,
    "dict_without_score": lambda: {"value": 1},
    "dict_with_text": lambda: {"score": "1"},
    "async_generator": async_generator,
    "bool": lambda: True,
    "decimal": lambda: decimal.Decimal("0.25"),
    "fraction": lambda: fractions.Fraction(1, 4),
    "zero_d": ZeroD,
    "dict": lambda: {"score": 2, "reason": "because", "extra": object()},
    "dict_with_none": lambda: {"score": None},
    "coroutine": coroutine,
    "surrogates": write_surrogates,
    "binary": write_binary,
    "much_output": lambda: [print("y" * 10**6) for _ in range(100)] and 1.0,
    "replace_streams": replace_streams,
    "close_streams": close_streams,
    "close_low": lambda: (os.closerange(0, 256), 1.0)[1],
    "fork_and_return": fork_and_return,
    "daemonise": daemonise,
    "leave_child": leave_child,
    "leave_thread": leave_thread,
    "atexit_hang": atexit_hang,
    "alarm_later": alarm_later,
}

def score(prompt, completion, example):
    example["answer"] += "!"
    del example["list"]
    if completion in CASES:
        return CASES[completion]()
    print("good", completion)
    return len(completion)
"""

WITHOUT_STACK = ["blocked", "stop", "swallow_usr1"]
HANGS = [
    "sleep", "spin", "spin_bare_except", "c_loop", "power", "regex", "deadlock", "slow_float", "hang_with_output",
    *WITHOUT_STACK,
]  # fmt: skip
DEATHS = {
    "segv": "was killed by SIGSEGV",
    "abort": "was killed by SIGABRT",
    "exit_0": "exited with status 0",
    "kill": "was killed by SIGKILL",
    "kill_group": "was killed by SIGKILL",
    "kill_parent": "lost its parent process",
    "garbage": "its channel to the runner was written to: a frame of",
    "huge": "its channel to the runner was written to: a frame of 2147483648 bytes",
    "forged_other": "an answer to another call",
    "forged_nan": "bytes that are no answer",
    "forged_types": "bytes that are no answer",
    "forged_deep": "bytes that are no answer",
    "close_all": "the worker process",
}
RAISED = {
    "sys_exit": "SystemExit: 3\n  rewards.py:",
    "interrupt": "KeyboardInterrupt\n  rewards.py:",
    "generator_exit": "GeneratorExit\n  rewards.py:",
    "spoiled": "Spoiled: (its __str__ fails)\n  rewards.py:",
    "recursion": "RecursionError: maximum recursion depth exceeded\n  rewards.py:",
    "memory_error": "MemoryError",
    "bad_float": "KeyError: 'no float'\n  rewards.py:",
}
REFUSED = {
    "text": "returned '1.0' (str)",
    "bytes": "returned b'1' (bytes)",
    "list": "returned [1] (list)",
    "complex": "returned 1j (complex)",
    "object": "returned an object of type object",
    "one_d": "returned an object of type OneD",
    "dict_without_score": 'returned a dict without "score"',
    "dict_with_text": "returned '1' (str)",
    "async_generator": "returned an object of type async_generator",
}
NOT_FINITE = {"nan": "returned nan", "infinite": "returned -inf", "too_large": "too large for a float"}
VALUES = {
    "bool": 1.0,
    "decimal": 0.25,
    "fraction": 0.25,
    "zero_d": 2.5,
    "dict": 2.0,
    "coroutine": 3.0,
    "forged_own": 999.0,
    "surrogates": 1.0,
    "binary": 1.0,
    "replace_streams": 1.0,
    "close_streams": 1.0,
    "close_low": 1.0,
    "fork_and_return": 1.0,
    "daemonise": 1.0,
    "leave_child": 1.0,
    "leave_thread": 1.0,
    "atexit_hang": 1.0,
    "alarm_later": 1.0,
}
GOOD = ["a", "bb", "ccc", None, "eeeee", "ffffff", "ggggggg", "hhhhhhhh"]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RewardHost]:
    folder = tmp_path_factory.mktemp("hostile")
    version = version_of(folder, SOURCE, timeout=0.2)
    before = open_files()
    with RewardHost(version, seed=0, scratch=folder / "scratch") as host:
        yield host
    assert processes_with(str(folder)) == []
    assert open_files() == before


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RewardHost]:
    folder = tmp_path_factory.mktemp("patient")
    with RewardHost(version_of(folder, SOURCE), seed=0, scratch=folder / "scratch") as host:
        yield host


def the_bad_one(host: RewardHost, case: str) -> Score:
    """Scores the case among seven good completions; whatever it does, those are right and nothing is left behind."""
    completions = [text or case for text in GOOD]
    example = {"answer": "42", "list": [1]}
    rows = host.score([GroupCall(prompt="p", example=example, completions=completions)], step=1, split="train")
    assert [len(row) for row in rows] == [1] * 8
    scores = [row[0] for row in rows]
    bad = scores.pop(3)
    assert [(score.outcome, score.value, score.output) for score in scores] == [
        (Outcome.OK, float(len(text)), f"good {text}\n") for text in GOOD if text
    ]
    assert within(1, lambda: len(processes_with(str(host._scratch))) <= 4), "zygote, two workers and a spare"
    return bad


@pytest.mark.parametrize("case", HANGS)
def test_a_call_that_hangs_is_stopped_at_its_deadline(host: RewardHost, case: str) -> None:
    bad = the_bad_one(host, case)
    assert (bad.outcome, bad.value, bad.seconds) == (Outcome.TIMEOUT, None, 0.2)
    assert bad.error and bad.error.startswith("no result after 0.2 s\n  ")
    assert ("(no stack available)" in bad.error) == (case in WITHOUT_STACK)
    assert ("rewards.py:" in bad.error) == (case not in WITHOUT_STACK)
    assert bad.output == ("so far\n" if case == "hang_with_output" else None)


@pytest.mark.parametrize("case", DEATHS)
def test_a_call_that_takes_its_worker_down_is_recorded_as_killed(host: RewardHost, case: str) -> None:
    bad = the_bad_one(host, case)
    assert (bad.outcome, bad.value) == (Outcome.KILLED, None)
    assert bad.error and DEATHS[case] in bad.error


@pytest.mark.parametrize("case", RAISED)
def test_whatever_a_call_raises_is_its_own_exception(host: RewardHost, case: str) -> None:
    bad = the_bad_one(host, case)
    assert (bad.outcome, bad.value) == (Outcome.EXCEPTION, None)
    assert bad.error and bad.error.startswith(RAISED[case])
    assert len(bad.error.encode()) <= 4096


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_number_is_refused_and_shown(host: RewardHost, case: str) -> None:
    bad = the_bad_one(host, case)
    assert (bad.outcome, bad.value) == (Outcome.NON_NUMERIC, None)
    assert bad.error and bad.error.startswith(REFUSED[case])


@pytest.mark.parametrize("case", NOT_FINITE)
def test_what_is_not_finite_is_refused(host: RewardHost, case: str) -> None:
    bad = the_bad_one(host, case)
    assert (bad.outcome, bad.value) == (Outcome.NON_FINITE, None)
    assert bad.error and NOT_FINITE[case] in bad.error


@pytest.mark.parametrize("case", ["none", "dict_with_none"])
def test_none_means_that_the_function_does_not_apply(host: RewardHost, case: str) -> None:
    bad = the_bad_one(host, case)
    assert (bad.outcome, bad.value, bad.error) == (Outcome.NONE, None, None)


@pytest.mark.parametrize("case", VALUES)
def test_a_number_counts_whatever_else_the_call_does(host: RewardHost, case: str) -> None:
    bad = the_bad_one(host, case)
    assert (bad.outcome, bad.value, bad.error) == (Outcome.OK, VALUES[case], None)
    assert bad.reason == ("because" if case == "dict" else None)


def test_output_is_kept_as_text_that_every_reader_takes(host: RewardHost) -> None:
    assert the_bad_one(host, "surrogates").output == "a\\udc80\\x00bé\n"
    binary = the_bad_one(host, "binary").output
    assert binary and binary.startswith("\\x00\x01\x02") and binary.endswith("\\xfe\\xff")


def test_100_megabytes_of_output_keep_their_start_and_their_end(patient: RewardHost) -> None:
    output = the_bad_one(patient, "much_output").output
    assert output and len(output.encode()) <= 4096
    assert output.startswith("yyy") and output.endswith("y\n") and "bytes left out" in output


def test_100_megabytes_of_message_are_cut(patient: RewardHost) -> None:
    bad = the_bad_one(patient, "long_message")
    assert bad.outcome == Outcome.EXCEPTION
    assert bad.error and bad.error.startswith("ValueError: xxx") and len(bad.error.encode()) <= 4096
    assert "rewards.py:" in bad.error


@pytest.mark.parametrize("text", ["", "\ud800 lone", "\0", "é" * 100])
def test_any_text_can_be_scored(host: RewardHost, text: str) -> None:
    rows = host.score([group([text], {"answer": "", "list": []})], step=1, split="train")
    assert rows[0][0].value == float(len(text))


def test_sixteen_completions_of_a_megabyte_do_not_block(host: RewardHost) -> None:
    texts = ["é" * 1_000_000 + str(number) for number in range(16)]
    rows = host.score([group(texts, {"answer": "", "list": []})], step=1, split="train")
    assert [row[0].value for row in rows] == [float(len(text)) for text in texts]
