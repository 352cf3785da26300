"""What the job expects to be learnt, judged by the rule that the run itself ends by; over several seeds, the median."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from runner.ci.checks import EXPECT, Check, Trial, Verdict
from runner.grpo.guards import Judged, bounds, judge, judge_values
from runner.spec.model import Expect, JobSpec


def learning(job: JobSpec, trials: Sequence[Trial]) -> Iterator[Check]:
    """A row for each expectation, or one that says that there is none."""
    expects = job.emulator.expect
    for i, expect in enumerate(expects):
        yield _expectation(expect, f"emulator.expect.{i}", trials)
    if not expects and trials:
        yield _rise(job, trials)


def _expectation(expect: Expect, field: str, trials: Sequence[Trial]) -> Check:
    said = [judge(expect, trial.metrics) for trial in trials]
    verdict, found = _verdict(expect, said)
    return Check(
        name=expect.metric,
        verdict=verdict,
        found=found,
        asked=asked(expect),
        tier="learning",
        field=field,
        code=EXPECT,
    )


def _verdict(expect: Expect, said: Sequence[Judged]) -> tuple[Verdict, str]:
    ends = [one.end for one in said if one.end is not None]
    rises = [one.rise for one in said if one.rise is not None]
    if not said or len(ends) < len(said):
        return Verdict.ERROR, next((one.unmet[0] for one in said if one.end is None), "no run to judge")
    overall = judge_values(expect, median(ends), median(rises))
    found = _figures(expect, ends, rises)
    return (Verdict.FAILED if overall.unmet else Verdict.PASSED), found


def _figures(expect: Expect, ends: Sequence[float], rises: Sequence[float]) -> str:
    parts: list[str] = []
    if expect.at_least is not None or expect.at_most is not None:
        parts.append(_one("", ends))
    if expect.rises_by is not None:
        parts.append(_one("rose by ", rises))
    return ", ".join(parts)


def _one(word: str, values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{word}{values[0]:.4g}"
    return f"{word}{median(values):.4g} (median of {', '.join(f'{value:.4g}' for value in values)})"


def asked(expect: Expect) -> str:
    """The expectation in words: `last 10 at least 0.9, rises by 0.2`."""
    window = f"last {expect.last} " if expect.last > 1 else ""
    parts = [f"{window}{bounds(expect)}"] if bounds(expect) else []
    if expect.rises_by is not None:
        parts.append(f"rises by {expect.rises_by:g}" + (f" over {expect.last} steps' means" if expect.last > 1 else ""))
    return ", ".join(parts)


def _rise(job: JobSpec, trials: Sequence[Trial]) -> Check:
    """Without an expectation: where the policy was given good texts to learn from, the reward should at least rise."""
    taught = job.emulator.policy == "replay" or job.emulator.demonstrations
    values = [value for _, value in trials[0].metrics.get("reward", ())]
    if not taught or len(values) < 2:
        found = "no expectations given: `emulator.expect` says what must be learnt"
        return Check(name="expectations", verdict=Verdict.SKIPPED, found=found, tier="learning", field="emulator")
    last = max(1, len(values) // 5)
    one = judge(Expect(metric="reward", last=last, rises_by=0.0), trials[0].metrics)
    verdict = Verdict.WARNED if one.unmet else Verdict.PASSED
    return Check(
        name="reward",
        verdict=verdict,
        found=f"rose by {one.rise:.4g}; no expectations given",
        asked="does not fall",
        tier="learning",
        field="emulator",
        code=EXPECT,
    )
