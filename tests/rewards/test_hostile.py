"""One bad call among seven good ones: eight records, seven right values, and nothing left behind. Whether calls share a
worker's process, or each has its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from runner.rewards.contract import GroupCall, Outcome, Score
from runner.rewards.host import RewardHost
from runner.rewards.sandbox import Settings
from runner.spec.sandbox import Sandbox
from tests.rewards.helpers import group, needs_sandbox, open_files, processes_with, version_of, within
from tests.rewards.hostile_cases import SOURCE

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
    "scribble": 1.0,
    "silence": 1.0,
    "rewind": 1.0,
    "leave_thread": 1.0,
    "atexit_hang": 1.0,
    "crash_later": 1.0,
    "handlers": 1.0,
    "c_output": 1.0,
    "thread_bomb": 1.0,
    "write_scratch": 1.0,
    "mask": 1.0,
    "chdir": 1.0,
    "alarm_later": 1.0,
}
NETWORK = "network is off for rewards; `sandbox: {network: true}` in the job opens it"
PROCESSES = "rewards may not start processes; `sandbox: {subprocess: true}` in the job opens this"
FILES = "rewards write only below"
FORBIDDEN = {
    "tcp": NETWORK,
    "udp": NETWORK,
    "dns": NETWORK,
    "listen": NETWORK,
    "abstract": NETWORK,
    "urlopen": NETWORK,
    "fork": PROCESSES,
    "fork_bomb": PROCESSES,
    "fork_and_return": PROCESSES,
    "daemonise": PROCESSES,
    "leave_child": PROCESSES,
    "run": PROCESSES,
    "exec": PROCESSES,
    "runner_environ": "Permission denied",
    "memory_of_others": "PermissionError",
    "shadow": "sandbox: {files: [/etc/shadow]}",
    "ssh": FILES,
    "list_home": FILES,
    "self_edit": FILES,
    "write_tmp": FILES,
    "kill_runner": "PermissionError",
    "kill_parent_refused": "PermissionError",
    "allocate": "a reward process may have 2048 MiB; the job's `sandbox: {memory_mb: …}` says so",
    "shared": "Cannot allocate memory",
    "huge_file": "File too large",
    "setrlimit": "not allowed to raise maximum limit",
    "ptrace": "PermissionError",
    "unshare": "PermissionError",
    "chroot": "PermissionError",
    "setuid": "PermissionError",
}
GOOD = ["a", "bb", "ccc", None, "eeeee", "ffffff", "ggggggg", "hhhhhhhh"]


@pytest.fixture(scope="module", params=["worker", "call"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RewardHost]:
    yield from hosts(tmp_path_factory, timeout=0.3, isolation=request.param)


@pytest.fixture(scope="module", params=["worker", "call"])
def patient(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RewardHost]:
    yield from hosts(tmp_path_factory, isolation=request.param)


@pytest.fixture(scope="module", params=["worker", "call"])
def open_host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RewardHost]:
    settings = Settings(sandbox=Sandbox(subprocess=True))
    yield from hosts(tmp_path_factory, settings, timeout=0.3, isolation=request.param)


def hosts(factory: pytest.TempPathFactory, settings: Settings | None = None, **options: object) -> Iterator[RewardHost]:
    """A host, and the proof that it leaves nothing behind."""
    folder = factory.mktemp("hostile")
    version = version_of(folder, SOURCE, **options)
    (folder / "user" / ".ssh").mkdir(parents=True)
    (folder / "user" / ".ssh" / "id_ed25519").write_text("a private key")
    before = open_files()
    with RewardHost(version, seed=0, scratch=folder / "scratch", settings=settings) as host:
        yield host
    assert processes_with(str(folder)) == []
    assert open_files() == before


def the_bad_one(host: RewardHost, case: str) -> Score:
    """Scores the case among seven good completions; whatever it does, those are right and nothing is left behind."""
    completions = [text or case for text in GOOD]
    example = {"answer": "42", "list": [1], "runner": os.getpid(), "user": str(host._scratch.parent / "user")}
    rows = host.score([GroupCall(prompt="p", example=example, completions=completions)], step=1, split="train")
    assert [len(row) for row in rows] == [1] * 8
    scores = [row[0] for row in rows]
    bad = scores.pop(3)
    assert [(score.outcome, score.value, score.output) for score in scores] == [
        (Outcome.OK, float(len(text)), f"good {text}\n") for text in GOOD if text
    ]
    assert within(2, lambda: len(processes_with(str(host._scratch))) <= 4), "zygote, two workers and a spare"
    return bad


@pytest.mark.parametrize("case", HANGS)
def test_a_call_that_hangs_is_stopped_at_its_deadline(host: RewardHost, case: str) -> None:
    bad = the_bad_one(host, case)
    assert (bad.outcome, bad.value, bad.seconds) == (Outcome.TIMEOUT, None, 0.3)
    assert bad.error and bad.error.startswith("no result after 0.3 s\n  ")
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


def test_a_call_that_closes_every_file_and_hangs_costs_only_itself(host: RewardHost) -> None:
    assert the_bad_one(host, "close_and_hang").outcome in (Outcome.TIMEOUT, Outcome.KILLED)


@needs_sandbox
def test_a_signal_to_all_processes_reaches_none(host: RewardHost) -> None:
    assert the_bad_one(host, "kill_all").value == 1.0


@needs_sandbox
@pytest.mark.parametrize("case", FORBIDDEN)
def test_what_the_sandbox_refuses_says_what_opens_it(host: RewardHost, case: str) -> None:
    bad = the_bad_one(host, case)
    assert (bad.outcome, bad.value) == (Outcome.EXCEPTION, None)
    assert bad.error and FORBIDDEN[case] in bad.error
    assert "rewards.py:" in bad.error


@pytest.mark.parametrize("case", ["fork_and_return", "daemonise", "leave_child"])
def test_processes_that_a_call_leaves_behind_are_killed(open_host: RewardHost, case: str) -> None:
    bad = the_bad_one(open_host, case)
    assert (bad.outcome, bad.value, bad.error) == (Outcome.OK, 1.0, None)


@pytest.mark.parametrize("case", ["sleep", "segv", "kill_group", "close_all"])
def test_a_bad_call_costs_only_itself_where_rewards_may_start_processes(open_host: RewardHost, case: str) -> None:
    assert the_bad_one(open_host, case).outcome == (Outcome.TIMEOUT if case == "sleep" else Outcome.KILLED)


def test_output_is_kept_as_text_that_every_reader_takes(host: RewardHost) -> None:
    assert the_bad_one(host, "surrogates").output == "a\\udc80\\x00bé\n"
    binary = the_bad_one(host, "binary").output
    assert binary and binary.startswith("\\x00\x01\x02") and binary.endswith("\\xfe\\xff")


def test_output_of_a_c_library_is_kept(host: RewardHost) -> None:
    assert the_bad_one(host, "c_output").output == "from C\n"


def test_100_megabytes_of_output_keep_their_start_and_their_end(patient: RewardHost) -> None:
    output = the_bad_one(patient, "much_output").output
    assert output and len(output.encode()) <= 4096
    assert output.startswith("yyy") and output.endswith("y\n") and "bytes left out" in output


def test_a_stack_that_overflows_in_c_takes_its_process_down(patient: RewardHost) -> None:
    bad = the_bad_one(patient, "c_recursion")
    assert bad.outcome == Outcome.KILLED and bad.error and "was killed by SIGSEGV\n  rewards.py:" in bad.error


def test_100_megabytes_of_message_are_cut(patient: RewardHost) -> None:
    bad = the_bad_one(patient, "long_message")
    assert bad.outcome == Outcome.EXCEPTION
    assert bad.error and bad.error.startswith("ValueError: xxx") and len(bad.error.encode()) <= 4096
    assert "rewards.py:" in bad.error


@pytest.mark.parametrize("text", ["", "\ud800 lone", "\0", "é" * 100])
def test_any_text_can_be_scored(host: RewardHost, text: str) -> None:
    rows = host.score([group([text], {"answer": "", "list": [], "runner": 0, "user": ""})], step=1, split="train")
    assert rows[0][0].value == float(len(text))


def test_sixteen_completions_of_a_megabyte_do_not_block(host: RewardHost) -> None:
    texts = ["é" * 1_000_000 + str(number) for number in range(16)]
    rows = host.score([group(texts, {"answer": "", "list": [], "runner": 0, "user": ""})], step=1, split="train")
    assert [row[0].value for row in rows] == [float(len(text)) for text in texts]
