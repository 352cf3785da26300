"""Before a run: what it will meet (`outlook`), and whether GRPO can learn from it (`probe`). Nothing is recorded."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TypeVar

from runner.api import EnvironmentUnfit
from runner.backends import load_backend
from runner.grpo.inputs import as_trained
from runner.grpo.outlook import Memory, Outlook, Tokens
from runner.grpo.types import Completion
from runner.preview import Subject, groups_of, host_of
from runner.queue.home import find_home
from runner.queue.jobs import Checked
from runner.rescoring import rewards_of
from runner.rewards import bundle
from runner.rewards.contract import Score
from runner.rewards.figures import FunctionFigures, function_figures
from runner.spec.errors import Finding, JobError
from runner.spec.model import JobSpec

__all__ = ["Memory", "Outlook", "Probe", "Tokens", "outlook", "probe"]

T = TypeVar("T")

HARDLY = 0.1
"""Share of useful groups below which a run teaches next to nothing."""
EASY = 0.9
MANY_CUT, MANY_FAILED = 0.3, 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A few groups drawn from the untrained model and scored with the job's own rewards."""

    prompts: int
    num_generations: int
    useful: float
    """Share of the groups whose rewards differ: only these teach."""
    measure: str
    """The reward by which a completion passes: the trusted one, else the one of the greatest weight."""
    passes: float
    """Score from which on it passes."""
    pass_at_1: float
    """Share of the completions that pass."""
    pass_at_group: float
    """Share of the prompts of which at least one completion passes."""
    cut: float
    """Share of the completions that were cut at `max_completion_length`."""
    mean_tokens: float
    figures: Sequence[FunctionFigures]
    generate_seconds: float
    score_seconds: float

    @property
    def failed(self) -> float:
        """Share of the reward calls that failed."""
        calls = sum(item.calls for item in self.figures)
        return sum(item.failed for item in self.figures) / calls if calls else 0.0

    @property
    def verdict(self) -> list[str]:
        """Whether GRPO can learn here, in a sentence each, the most important first."""
        said: list[str] = []
        if self.failed > MANY_FAILED:
            said.append(f"{self.failed:.0%} of the reward calls fail: mend them first (`runner reward test`)")
        if self.useful <= HARDLY and self.pass_at_1 >= EASY:
            said.append("too easy: nearly every completion passes already; harder prompts would teach")
        elif self.useful <= HARDLY:
            said.append(
                f"can hardly learn: in {1 - self.useful:.0%} of the groups all rewards are equal; easier prompts, a "
                "partial reward, a better instruction, or a higher temperature would give signal"
            )
        elif self.pass_at_group == 0:
            said.append(f"can learn, but not `{self.measure}` yet: nothing has passed; watch that the rest leads there")
        else:
            said.append(f"can learn: {self.useful:.0%} of the groups have a signal")
        if self.cut > MANY_CUT:
            said.append(f"{self.cut:.0%} of the completions are cut: raise grpo.max_completion_length")
        return said


def outlook(checked: Checked) -> Outlook:
    """What training this job will meet on this machine. Told as far as its packages are here, without a GPU as well."""
    backend, job = load_backend(checked.backend), _job(checked)
    data = checked.data
    found = backend.check(job, data.train, data.eval)
    if checked.backend == "trl" and find_spec("transformers") is None:
        return Outlook(findings=found)
    seen = backend.outlook(job, data.train)
    return replace(seen, findings=[*found, *seen.findings])


def probe(checked: Checked, *, prompts: int = 16, passes: float = 1.0) -> Probe:
    """Draws a group for each of the first `prompts` training prompts and scores them as training would.

    Raises EnvironmentUnfit or JobError for what keeps the model from being loaded.
    """
    if checked.backend == "trl" and not _has_gpu():
        os.environ["RUNNER_DEVICE"] = "cpu"
    _refuse(outlook(checked).findings)
    job = _job(checked)
    examples = checked.data.train[:prompts]
    began = time.monotonic()
    drawn = load_backend(checked.backend).generate(job, None, examples, job.grpo.num_generations)
    generated = time.monotonic()
    subject = Subject(bundle=bundle.locked(checked.rewards), folder=checked.loaded.folder, job=job)
    with host_of(subject) as host:
        starting = time.monotonic()
        scores = host.score(groups_of(examples, drawn), step=0, split="train")
        seconds = time.monotonic() - starting
    return _figures(subject, drawn, scores, passes, generated - began, seconds)


def _figures(
    subject: Subject,
    drawn: Sequence[Sequence[Completion]],
    scores: Sequence[Sequence[Score]],
    passes: float,
    generate_seconds: float,
    score_seconds: float,
) -> Probe:
    size = len(drawn[0])
    functions = subject.bundle.functions
    at = max(range(len(functions)), key=lambda i: (functions[i].trusted, functions[i].weight))
    passed = [(row[at].value or 0.0) >= passes for row in scores]
    completions = [item for group in drawn for item in group]
    return Probe(
        prompts=len(drawn),
        num_generations=size,
        useful=_share(_differ(group) for group in _cut(rewards_of(scores, subject), size)),
        measure=functions[at].name,
        passes=passes,
        pass_at_1=_share(passed),
        pass_at_group=_share(any(group) for group in _cut(passed, size)),
        cut=_share(item.finish == "length" for item in completions),
        mean_tokens=sum(item.n_tokens for item in completions) / len(completions),
        figures=[
            function_figures([row[f] for row in scores], None, [size] * len(drawn), weight=function.weight, columns=())
            for f, function in enumerate(functions)
        ],
        generate_seconds=generate_seconds,
        score_seconds=score_seconds,
    )


def _job(checked: Checked) -> JobSpec:
    return as_trained(checked.job, checked.loaded.folder, find_home(checked.loaded.folder).state / "runs")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _refuse(findings: Sequence[Finding]) -> None:
    errors = [finding for finding in findings if finding.severity == "error"]
    if any(finding.code == "environment" for finding in errors):
        raise EnvironmentUnfit("\n".join(f"{finding.message} {finding.hint}".strip() for finding in errors))
    if errors:
        raise JobError(errors)


def _differ(rewards: Sequence[float | None]) -> bool:
    """Exactly: a spread by rounding alone would be no signal, and GRPO divides by it."""
    return len({reward for reward in rewards if reward is not None}) > 1


def _cut(values: Sequence[T], size: int) -> list[Sequence[T]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _share(items: Iterable[bool]) -> float:
    found = [bool(item) for item in items]
    return sum(found) / len(found)
