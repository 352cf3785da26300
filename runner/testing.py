"""Tests of reward functions: cases, inputs that a policy would find, repeatability, time; all in the isolated host.

`RewardUnderTest` calls one function as training would. `check_reward` puts it through everything and raises one
AssertionError that lists what is wrong. The pytest plugin offers both as the fixture `reward`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from runner.rewards.bundle import build, write
from runner.rewards.capture import capture
from runner.rewards.contract import GroupCall, Score
from runner.rewards.host import RewardHost
from runner.spec.model import Reward

Style = Literal["runner", "trl", "predibase", "verl"]
Function = str | Path | Callable[..., Any]
"""`file.py:function`, or the function itself."""

HUGE = "9" * 5000
UNICODE = "４２ ٤٢ 42\u200b \u202e42\u202c \U0001d7d2\U0001d7d0 ½ 🧮 \x00\x1b[2J \ufffd é"


@dataclass(frozen=True, slots=True)
class Case:
    """A completion and what the function should say of it."""

    completion: str
    expected: Any
    """A number (or `pytest.approx(…)`); None: it does not apply."""
    example: Mapping[str, Any] | None = None
    """Unset: the check's example."""
    prompt: str | None = None


CaseLike = Case | tuple[str, Any]


class RewardUnderTest:
    """One reward function in isolated workers. A context manager; calling it scores one completion."""

    def __init__(self, function: Function, *, folder: Path = Path(), style: Style = "runner", timeout: float = 10.0):
        self._home = tempfile.TemporaryDirectory(prefix="reward-test-")
        try:
            fn, source = _source(function, folder, Path(self._home.name), style)
            reward = Reward.model_validate({"fn": fn, "style": style, "timeout": timeout})
            version = write(build({"reward": reward}, source), Path(self._home.name, "versions"))
            self._host = RewardHost(version, seed=0)
        except BaseException:
            self._home.cleanup()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers."""
        self._host.close()
        self._home.cleanup()

    def __call__(self, completion: str, prompt: str = "", **example: Any) -> float | None:
        """The function's value; None where it does not apply. Raises AssertionError with its error when it fails."""
        (score,) = self.scores([Case(completion, None, example, prompt)])
        if score.outcome.is_error:
            raise AssertionError(f"{score.outcome}: {score.error}")
        return score.value

    def scores(self, cases: Sequence[Case]) -> list[Score]:
        """The full record of each case's call: value, outcome, reason, error, output, seconds."""
        groups = [
            GroupCall(prompt=case.prompt or "", example=case.example or {}, completions=[case.completion])
            for case in cases
        ]
        return [row[0] for row in self._host.score(groups, step=1, split="train")]


def _source(function: Function, folder: Path, home: Path, style: Style) -> tuple[str, Path]:
    """What the job would call it, and the folder its file is in."""
    if callable(function):
        (home / "rewards.py").write_text(capture({"reward": function}, styles={"reward": style}), encoding="utf-8")
        return f"rewards.py:{function.__name__}", home
    path, _, name = str(function).rpartition(":")
    file = (folder / path).resolve()
    return f"{file.name}:{name}", file.parent


# ---------------------------------------------------------------------------------------------------- all at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a function did with one input."""

    title: str
    case: Case
    score: Score
    problems: Sequence[str] = field(default_factory=tuple[str, ...])


def check_reward(
    function: Function,
    cases: Iterable[CaseLike] = (),
    *,
    example: Mapping[str, Any] | None = None,
    prompt: str = "",
    gold: str | None = None,
    allow: Sequence[str] = (),
    deterministic: bool = True,
    max_seconds: float = 1.0,
    bounds: tuple[float, float] | None = None,
    style: Style = "runner",
    folder: Path = Path(),
) -> list[Checked]:
    """Raises AssertionError with everything that is wrong; else gives every call's record.

    Each case gets its expected value. Of the inputs of `adversarial`, none fails, and none scores as high as the best
    case (those named in `allow` may). Every call gives the same again, in another order too, unless `deterministic` is
    off; none takes longer than `max_seconds`; every value lies within `bounds`. `gold` is the right answer's text, for
    the inputs that try to smuggle it in.
    """
    given = [case if isinstance(case, Case) else Case(*case) for case in cases]
    given = [Case(c.completion, c.expected, c.example or example, c.prompt or prompt) for c in given]
    best = max(given, key=_rank, default=None)
    hostile = adversarial(prompt, gold, best.completion if best else None)
    inputs = [
        *((f"case {i}", case) for i, case in enumerate(given, 1)),
        *((title, Case(text, None, example, prompt)) for title, text in hostile.items()),
    ]
    with RewardUnderTest(function, folder=folder, style=style, timeout=max(10 * max_seconds, 1.0)) as tested:
        scores = tested.scores([case for _, case in inputs])
        again = tested.scores([case for _, case in reversed(inputs)])[::-1] if deterministic else scores
    top = _rank(best) if best and len({_rank(case) for case in given}) > 1 else None
    checked = [
        Checked(
            title=title,
            case=case,
            score=score,
            problems=[
                *_value_problems(title, case, score, None if title in allow else top),
                *_general_problems(score, second, max_seconds, bounds),
            ],
        )
        for (title, case), score, second in zip(inputs, scores, again, strict=True)
    ]
    lines = [_line(item, problem) for item in checked for problem in item.problems]
    if lines:
        raise AssertionError("\n".join([f"{len(lines)} problem(s) with the reward:", *lines]))
    return checked


def adversarial(prompt: str = "", gold: str | None = None, good: str | None = None) -> dict[str, str]:
    """Completions without merit that a policy finds when they pay. `gold`: the right answer; `good`: a completion that
    deserves its reward, whose form is kept with the answer taken out."""
    numbers = " ".join(str(number) for number in range(-10, 201))
    found = {
        "empty": "",
        "blank": " \n\t\n ",
        "prompt echo": prompt,
        "all answers": f"{numbers} {gold or ''}",
        "repetition": f"{gold or 'The answer is clear. '} " * 200,
        "huge integer": HUGE,
        "huge power": "<answer>9**9**9</answer> #### 9**9**9 \\boxed{9**9**9}",
        "unicode": UNICODE,
    }
    if gold:
        found["gold spam"] = "\n".join([gold, f"#### {gold}", f"<answer>{gold}</answer>", f"\\boxed{{{gold}}}"] * 8)
    if good and gold and gold in good:
        found["format only"] = good.replace(gold, "")
    return found


def _rank(case: Case) -> float:
    """The expected value as a number; -inf for what does not apply."""
    expected = getattr(case.expected, "expected", case.expected)  # pytest.approx keeps it there
    return float(expected) if isinstance(expected, int | float) else float("-inf")


def _value_problems(title: str, case: Case, score: Score, top: float | None) -> Iterator[str]:
    if score.outcome.is_error:
        yield f"{score.outcome}: {score.error}"
    elif title.startswith("case "):
        if score.value != case.expected:
            yield f"gave {score.value}, expected {case.expected}"
    elif top is not None and score.value is not None and score.value >= top:
        yield f"gave {score.value}, as much as the best case ({top:g}): a policy will find that"


def _general_problems(
    score: Score, again: Score, max_seconds: float, bounds: tuple[float, float] | None
) -> Iterator[str]:
    if (score.value, score.outcome) != (again.value, again.outcome):
        yield f"gave {score.value}, then {again.value} for the same input"
    if score.seconds > max_seconds:
        yield f"took {score.seconds:.2g} s, more than {max_seconds:g} s"
    if bounds and score.value is not None and not bounds[0] <= score.value <= bounds[1]:
        yield f"gave {score.value}, outside of {bounds[0]:g} … {bounds[1]:g}"


def _line(item: Checked, problem: str) -> str:
    text = item.case.completion
    return f"- {item.title} ({text[:60]!r}{'…' if len(text) > 60 else ''}): {problem}"
