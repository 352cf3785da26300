"""What every job has to keep, whatever it is to learn: one row each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from runner.ci.checks import AS_ASKED, Check, Trial, Verdict
from runner.ci.probe import Probed
from runner.journal.events import Difference
from runner.journal.states import Reason, exit_code
from runner.queue.jobs import Checked
from runner.rewards.contract import Outcome
from runner.spec.errors import Finding
from runner.store.rows import RunRow

NO_SIGNAL = 0.9
"""Share of completions in groups of equal rewards, over the first tenth of the steps, from which on we warn."""
BEGINNING = 0.1


def contract(checked: Checked, differences: Sequence[Difference], trials: Sequence[Trial]) -> Iterator[Check]:
    """The rows of what was recorded; how each run ended is `endings`."""
    yield from _data(checked)
    if trials:
        yield _import(trials)
        for name in checked.job.rewards:
            yield _calls(name, checked, trials)
            yield _varies(name, trials)
        yield _signal(trials)
    yield from (_differs(item) for item in differences)


def _data(checked: Checked) -> Iterator[Check]:
    prompts = len(checked.data.train) + len(checked.data.eval)
    yield _passed("template", f"{prompts} prompts rendered", field="dataset.prompt")
    about_columns = [warning for warning in checked.warnings if warning.code == "column"]
    if not about_columns:
        yield _passed("columns", "every column that the rewards read is in every row")
    for warning in checked.warnings:
        name = "columns" if warning.code == "column" else "data"
        said = f"{warning.message}; {warning.hint}" if warning.hint else warning.message
        yield Check(name=name, verdict=Verdict.WARNED, found=said, place=_placed(warning), field=warning.field)


def _placed(warning: Finding) -> Finding | None:
    return warning if warning.file else None


def endings(trials: Sequence[Trial], *, halted: bool) -> Iterator[Check]:
    """How each run ended. `halted`: this command has stopped them, and has a row that says so."""
    for trial in trials:
        name = f"run of seed {trial.seed}" if len(trials) > 1 else "run"
        if halted and trial.run.reason is Reason.STOPPED:
            yield Check(name=name, verdict=Verdict.SKIPPED, found=f"stopped after step {trial.run.last_step}")
        else:
            yield _ending(name, trial.run)


def _ending(name: str, run: RunRow) -> Check:
    """What it was to learn is judged by rows of its own."""
    if run.reason in (Reason.FINISHED, Reason.GOAL_REACHED, Reason.EXPECT_NOT_MET):
        return _passed(name, f"{run.last_step} steps")
    code = exit_code(run.reason) if run.reason else 1
    return Check(name=name, verdict=Verdict.FAILED, found=f"{run.reason}: {run.detail}", code=code)


def _import(trials: Sequence[Trial]) -> Check:
    broken = [t.run for t in trials if not t.outcomes and t.run.reason is Reason.REWARD_ERROR]
    if broken:
        return Check(name="rewards import", verdict=Verdict.FAILED, found=broken[0].detail, field="rewards")
    if not any(trial.outcomes for trial in trials):
        return Check(name="rewards import", verdict=Verdict.SKIPPED, found="no reward was called", field="rewards")
    return _passed("rewards import", "they do", field="rewards")


def _calls(name: str, checked: Checked, trials: Sequence[Trial]) -> Check:
    """Whether every call gave a number or None. Under `on_error: zero` the job has accepted errors: a warning."""
    row, field = f"{name}: no call errors", f"rewards.{name}"
    mine = [row for trial in trials for row in trial.outcomes if row.name == name]
    total = sum(outcome.calls for outcome in mine)
    failed = sum(outcome.calls for outcome in mine if Outcome(outcome.outcome).is_error)
    if not total:
        return Check(name=row, verdict=Verdict.SKIPPED, found="never called", field=field)
    if not failed:
        return _passed(row, f"{total:,} calls", field=field)
    accepted = checked.job.rewards[name].on_error == "zero"
    first = next((trial.failures[name] for trial in trials if name in trial.failures), "")
    found = f"{failed:,} of {total:,} calls failed" + (f"; first: {first}" if first else "")
    return Check(name=row, verdict=Verdict.WARNED if accepted else Verdict.FAILED, found=found, field=field)


def _varies(name: str, trials: Sequence[Trial]) -> Check:
    row, field = f"{name}: not constant", f"rewards.{name}"
    ranges = [trial.ranges[name] for trial in trials if name in trial.ranges]
    if not ranges:
        return Check(name=row, verdict=Verdict.SKIPPED, found="it never gave a number", field=field)
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    if low == high:
        return Check(name=row, verdict=Verdict.WARNED, found=f"always {low:g}: it teaches nothing", field=field)
    return _passed(row, f"{low:g} to {high:g}", field=field)


def _signal(trials: Sequence[Trial]) -> Check:
    """Whether rewards differ within groups to begin with; a job that is solved has no spread later, and may."""
    row = "spread within groups"
    shares = [_beginning(trial) for trial in trials]
    known = [share for share in shares if share is not None]
    if not known:
        return Check(name=row, verdict=Verdict.SKIPPED, found="no step was finished")
    share = max(known)
    found = f"at the beginning {share:.0%} of the completions are in groups with equal rewards"
    if share >= NO_SIGNAL:
        return Check(name=row, verdict=Verdict.WARNED, found=f"{found}, which teach nothing")
    return _passed(row, found)


def _beginning(trial: Trial) -> float | None:
    values = [value for _, value in trial.metrics.get("frac_reward_zero_std", ())]
    first = values[: max(1, int(len(values) * BEGINNING))]
    return math.fsum(first) / len(first) if first else None


def _differs(item: Difference) -> Check:
    """What a real run would do otherwise. `not applicable` is no fault of the job's, even under `--strict`."""
    asked, found = f"{item.field}: {item.asked}", f"{item.kind}: {item.detail}"
    verdict = Verdict.SKIPPED if item.kind == "not applicable" else Verdict.WARNED
    return Check(name=AS_ASKED, verdict=verdict, found=found, asked=asked, field=item.field)


def probed(found: Probed) -> Iterator[Check]:
    """The rows of the second try."""
    for item in found.twice:
        row, field = f"{item.name}: the same twice", f"rewards.{item.name}"
        if not item.calls:
            yield Check(name=row, verdict=Verdict.SKIPPED, found="no completion to try it on", field=field)
        elif item.differing:
            said = f"{item.differing} of {item.calls} completions got other values: {item.example}"
            yield Check(name=row, verdict=Verdict.FAILED, found=said, field=field)
        else:
            yield _passed(row, f"{item.calls} completions", field=field)
    yield _resume(found)


def _resume(found: Probed) -> Check:
    row, tried = "resume comes to the same", found.resumed
    if moody := [item.name for item in found.twice if item.differing]:
        said = f"can't be told: {', '.join(moody)} gives other values each time"
        return Check(name=row, verdict=Verdict.SKIPPED, found=said)
    if not tried.steps:
        return Check(name=row, verdict=Verdict.SKIPPED, found=tried.difference)
    if tried.difference:
        return Check(name=row, verdict=Verdict.FAILED, found=tried.difference)
    return _passed(row, f"{tried.steps} steps, stopped after {tried.stopped_after}")


def not_probed(why: str) -> Check:
    """Instead of the second try's rows, where it broke down."""
    return Check(name="resume comes to the same", verdict=Verdict.ERROR, found=why)


def _passed(name: str, found: str, field: str = "") -> Check:
    return Check(name=name, verdict=Verdict.PASSED, found=found, field=field)
