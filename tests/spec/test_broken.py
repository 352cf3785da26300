"""Two hundred jobs, each broken in one way: none ends in a traceback, every one says where and what."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.spec.errors import JobError, render
from runner.spec.load import load

GOOD = """\
model: Qwen/Qwen2.5-1.5B-Instruct
seed: 3
lora: {rank: 64, alpha: 32}
dataset: {path: data.jsonl, prompt: "Make {target} from {nums}.", format: chat, holdout: 0.1}
rewards:
  format: {fn: rewards.py:format, weight: 0.2}
  equation: {fn: rewards.py:equation, trusted: true}
grpo:
  steps: 200
  num_generations: 8
  learning_rate: 1e-5
  beta: 0.001
  loss_type: dapo
evaluation: {every: 20}
checkpoints: {every: 10, keep: 3}
stop: {metric: reward, at_least: 0.6, for: 2}
limits: {max_duration: 12h}
labels: {team: blue}
"""
NAMES = [
    "model", "seed", "lora", "rank", "alpha", "dataset", "path", "prompt", "format:", "holdout",
    "rewards", "fn", "weight", "trusted", "grpo", "steps", "num_generations", "learning_rate", "beta", "loss_type",
    "evaluation", "every", "checkpoints", "keep", "stop", "metric", "limits", "max_duration",
]  # fmt: skip
VALUES = {
    "seed: 3": "seed: {}",
    "rank: 64": "rank: {}",
    "alpha: 32": "alpha: {}",
    "holdout: 0.1": "holdout: {}",
    "weight: 0.2": "weight: {}",
    "trusted: true": "trusted: {}",
    "steps: 200": "steps: {}",
    "num_generations: 8": "num_generations: {}",
    "learning_rate: 1e-5": "learning_rate: {}",
    "beta: 0.001": "beta: {}",
    "loss_type: dapo": "loss_type: {}",
    "every: 20": "every: {}",
    "keep: 3": "keep: {}",
    "max_duration: 12h": "max_duration: {}",
    "for: 2": "for: {}",
}
WRONG = ("eight", "-1", "[1]", "{a: 1}", "'8'", ".inf", ".nan", "1e999", "9" * 40, "9" * 5000, "!!int 3", "*x", "12:30")


def typo(pick: random.Random) -> str:
    name = pick.choice(NAMES)
    at = pick.randrange(len(name))
    return GOOD.replace(name, name[:at] + pick.choice("xqz_") + name[at + 1 :], 1)


def wrong_value(pick: random.Random) -> str:
    good = pick.choice(list(VALUES))
    return GOOD.replace(good, VALUES[good].format(pick.choice(WRONG)), 1)


def no_value(pick: random.Random) -> str:
    section = pick.choice(["lora", "dataset", "evaluation", "checkpoints", "stop", "limits", "labels"])
    return "\n".join(f"{section}:" if line.startswith(section) else line for line in GOOD.split("\n"))


def missing(pick: random.Random) -> str:
    gone = pick.choice(["model", "dataset", "  format: {fn: rewards.py:format, weight: 0.2}\n  equation"])
    return "\n".join(line for line in GOOD.split("\n") if not line.startswith(gone.split("\n")[0])).replace(
        "fn: rewards.py:equation, ", ""
    )


def cut(pick: random.Random) -> str:
    return GOOD[: GOOD.index(pick.choice(["{rank", "{path", "from {nums}", "{fn:", "{every", "{metric"])) + 2]


def stray(pick: random.Random) -> str:
    lines = GOOD.split("\n")
    lines.insert(
        pick.randrange(1, len(lines)), pick.choice(["\tx: 1", "}", "%", "@", "a: b: c", "- 1", "'", "? [a]", "--- x"])
    )
    return "\n".join(lines)


def twice(pick: random.Random) -> str:
    return GOOD + pick.choice(
        [line + "\n" for line in GOOD.split("\n") if line and not line.startswith((" ", "g", "r"))]
    )


def control(pick: random.Random) -> str:
    at = pick.randrange(len(GOOD))
    return GOOD[:at] + pick.choice("\0\x01\x07\x1b\x7f\ufffe") + GOOD[at:]


def bomb(pick: random.Random) -> str:
    size = pick.randrange(70, 3000)
    return GOOD + pick.choice(
        [
            "x: " + "[" * size,
            "x: " + "{a: " * size,
            "x: [" + "1, " * 5 * 3000 + "]",
            "\n".join(" " * i + "a:" for i in range(100, 100 + size // 10)),
            "a: &a [1]\n" + "".join(f"b{i}: [*a, *a]\n" for i in range(size)),
            "# " + "x" * 300_000,
        ]
    )


def garbage(pick: random.Random) -> bytes:
    return pick.randbytes(pick.randrange(1, 400))


def bad_byte(pick: random.Random) -> bytes:
    at = pick.randrange(len(GOOD))
    return GOOD[:at].encode() + pick.choice([b"\xff", b"\xc3", b"\xed\xa0\x80"]) + GOOD[at:].encode()


BREAKS: list[Callable[[random.Random], str | bytes]] = [
    typo, wrong_value, no_value, missing, cut, stray, twice, control, bomb, garbage, bad_byte,
]  # fmt: skip


def test_the_job_they_are_broken_from_is_good(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(GOOD)
    assert load(tmp_path / "job.yaml").job.grpo.learning_rate == 1e-5


@pytest.mark.parametrize("seed", range(220))
def test_a_broken_job_is_told_where_and_what(seed: int, tmp_path: Path) -> None:
    broken = BREAKS[seed % len(BREAKS)](random.Random(seed))
    path = tmp_path / "job.yaml"
    path.write_bytes(broken if isinstance(broken, bytes) else broken.encode())
    with pytest.raises(JobError) as caught:
        load(path)
    findings = caught.value.findings
    assert findings
    for item in findings:
        assert (item.file, item.severity) == (str(path), "error")
        assert item.line >= 1 and item.column >= 1
        assert item.code and item.message and item.hint
    assert len({(item.line, item.column, item.field) for item in findings}) == len(findings)
    assert all(char.isprintable() or char == "\n" for char in render(findings))
