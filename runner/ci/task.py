"""One job's way through the command: a run for each seed, one after another, then the second try, then the verdict.

A job has one run at a time, as everywhere; so its seeds follow each other and several jobs go side by side.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from runner import api
from runner.api import EnvironmentUnfit, RunHandle
from runner.ci.checks import INVALID, UNFIT, Asked, Check, Result, Trial, Verdict, strictly
from runner.ci.contract import contract, endings, not_probed, probed
from runner.ci.learning import learning
from runner.ci.probe import Probed
from runner.ci.trial import read_trial
from runner.ci.warm import Child, Warm, WarmLost
from runner.journal.events import Difference
from runner.queue.jobs import Checked, validate
from runner.spec.errors import Finding, JobError
from runner.store.errors import StoreError
from runner.store.store import Store


class Task:
    """A job of the command. `next` gives the process to wait for, until there is none; then `result` is the verdict."""

    def __init__(self, path: Path, asked: Asked, warm: Warm) -> None:
        self.path = path
        self.handle: RunHandle | None = None
        """The run that goes on now; None between runs and during the second try."""
        self.trials: list[Trial] = []
        self._asked = asked
        self._warm = warm
        self._began = time.monotonic()
        self._checked: Checked | None = None
        self._differences: list[Difference] = []
        self._findings: tuple[Finding, ...] = ()
        self._seeds: list[int] | None = None
        """Still to run."""
        self._store: Store | None = None
        """Open from the first run to the verdict: the last one that closes the database tidies it up each time."""
        self._probe: Child | None = None
        self._obstacles: list[Check] = []
        """Why it did not go its whole way."""

    @property
    def name(self) -> str:
        return self._checked.loaded.name if self._checked else str(self.path)

    def next(self) -> Child | None:
        """Goes on to the next process, once the one before is gone, and gives it. No fault of a job raises here."""
        try:
            return self._next()
        except JobError as error:
            self._findings = error.findings
            self._obstacles += [_invalid(finding) for finding in error.findings]
        except (EnvironmentUnfit, WarmLost) as error:
            self._give_up("environment", str(error), UNFIT)
        except StoreError as error:
            self._give_up("run", str(error), INVALID)
        return None

    def halt(self, why: str, code: int) -> None:
        """Nothing more is started; what runs is asked to stop. Each further call stops it harder."""
        if not any(check.code == code for check in self._obstacles):
            self._give_up("interrupted", why, code)
        if self.handle is not None:
            self.handle.stop()
        elif self._probe is not None:
            self._probe.kill()

    def _give_up(self, name: str, why: str, code: int) -> None:
        self._obstacles.append(Check(name=name, verdict=Verdict.ERROR, found=why, code=code))

    def _next(self) -> Child | None:
        if self._seeds is None:
            self._prepare()
        if self.handle is not None:
            self._take()
        if self._obstacles:
            return None
        if self._seeds:
            return self._start(self._seeds.pop(0))
        if self._asked.checks and self._probe is None and self._can_be_probed():
            self._probe = self._warm.probe(self.trials[0].handle.folder)
            return self._probe
        return None

    def _prepare(self) -> None:
        """Checks the job and says which seeds are to run. Raises JobError."""
        self._seeds = []
        self._checked = validate(self.path, self._asked.overrides, "emulator")
        self._differences = api.differences(self._checked)
        seeds = self._asked.seeds
        self._seeds = [self._checked.job.seed] if seeds is None else list(seeds)

    def _start(self, seed: int) -> Child:
        """The run of one seed. Raises JobError, StoreError, EnvironmentUnfit, WarmLost."""
        assert self._checked is not None, "prepared"
        job = self._checked
        if self._asked.seeds is not None:
            job = validate(self.path, [*self._asked.overrides, f"seed={seed}"], "emulator")
        handle = api.submit(job, home=self._asked.home)
        self._seed = seed
        self._store = self._store or handle.home.open()
        waiting = handle.start(spawn=self._warm.spawn)
        if waiting:
            raise EnvironmentUnfit(f"{handle.id} is queued, not started: {waiting}")
        self.handle = handle
        supervisor = handle.supervisor
        assert isinstance(supervisor, Child), "spawned by our warm process"
        return supervisor

    def _take(self) -> None:
        """Reads the run that has just ended."""
        assert self.handle is not None
        self.handle.wait()
        self.trials.append(read_trial(self.handle, self._seed))
        self.handle = None

    def _can_be_probed(self) -> bool:
        return bool(self.trials) and bool(self.trials[0].outcomes) and self.trials[0].run.last_step > 0

    def result(self) -> Result:
        """The verdict, once `next` has given None."""
        if self._store is not None:
            self._store.close()
        rows = list(self._rows())
        checks = strictly(rows) if self._asked.strict else rows
        return Result(
            job=self.name,
            path=self.path,
            checks=[self._located(check) for check in checks],
            trials=self.trials,
            differences=self._differences,
            findings=self._findings,
            seconds=time.monotonic() - self._began,
        )

    def _rows(self) -> Iterator[Check]:
        yield from self._obstacles
        if self._checked is None:
            return
        halted = bool(self._obstacles)
        yield from endings(self.trials, halted=halted)
        yield from contract(self._checked, self._differences, self.trials)
        if halted:
            return
        if self._probe is not None:
            yield from self._probe_rows(self._probe)
        yield from learning(self._checked.job, self.trials)

    def _probe_rows(self, probe: Child) -> list[Check]:
        try:
            return list(probed(Probed.from_json(probe.said)))
        except msgspec.DecodeError:
            return [not_probed("the second try broke down; `runner resume` may not work for this job")]

    def _located(self, check: Check) -> Check:
        if self._checked is None or check.place is not None or not check.field:
            return check
        [place] = self._checked.loaded.locate([Finding(code="check", message=check.found, field=check.field)])
        return replace(check, place=place)


def _invalid(finding: Finding) -> Check:
    place = finding if finding.file else None
    said = f"{finding.field}: {finding.message}" if finding.field else finding.message
    return Check(name=f"valid: {finding.code}", verdict=Verdict.ERROR, found=said, place=place, code=INVALID)
