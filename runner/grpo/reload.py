"""Which reward version scores: edits are vetted while the run trains, and go live between two batches.

One thread looks at the run's `rewards/` folder, starts what is wanted there beside the live version and vets it; the
training thread alone switches, at the first train `score` of a step (`turn`), so a batch has one version.

A run that resumes replays its recorded switches, each at its step, before it takes new ones: the scores behind the
checkpoint come out as they were. A version that was put live while the run trained and makes too many calls fail is
rolled back; only the version a run began with may end it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from runner.journal import events
from runner.journal.folder import RunFolder
from runner.journal.log import Journal, read_types
from runner.rewards import vet
from runner.rewards.contract import GroupCall, Score
from runner.rewards.host import RewardHost, RewardLoadError
from runner.rewards.versions import Shelf, Target

LOOK_SECONDS = 0.02
"""Between two looks at the folder: two small files are read."""
ROLLBACK_STEPS = 10
"""From its switch on, in which a failing version is rolled back; later it is more likely that something else broke."""

OpenHost = Callable[[Path], RewardHost]
"""Starts the workers of the version in that folder. Raises RewardLoadError; ValueError for changed files."""


@dataclass(frozen=True, slots=True)
class Past:
    """What earlier attempts recorded of the run's reward versions."""

    numbers: Mapping[str, int]
    switches: Mapping[int, str]
    """First step → version, the first one included; those behind the checkpoint too."""
    rejected: Mapping[str, str]
    """Version → why, for those whose last record is a refusal."""
    failed: Mapping[str, int]
    """Of these, those that failed while they were live → the step from which on they were not to score."""

    @classmethod
    def read(cls, folder: RunFolder) -> Past:
        """From all journals: an attempt replays the switches of those before it, so a step's latest record holds."""
        numbers: dict[str, int] = {}
        switches: dict[int, str] = {}
        rejected: dict[str, str] = {}
        failed: dict[str, int] = {}
        for attempt in folder.attempts():
            for event in read_types(folder.journal(attempt), "version_changed"):
                assert isinstance(event, events.VersionChanged)
                numbers.setdefault(event.version, event.number)
                if event.state == "active" and event.first_step is not None:
                    switches[event.first_step] = event.version
                if event.state == "rejected":
                    rejected[event.version] = event.error or ""
                    failed |= {event.version: event.first_step} if event.first_step is not None else {}
                elif event.state != "retired":
                    rejected.pop(event.version, None)
        return cls(numbers, dict(sorted(switches.items())), rejected, failed)


class Reload:
    """The live version of an attempt that goes on from `step`, and what shall follow it. A context manager.

    Raises RewardLoadError when the version it begins with can't be imported.
    """

    def __init__(self, shelf: Shelf, past: Past, step: int, journal: Journal, open_host: OpenHost) -> None:
        self._shelf = shelf
        self._past = past
        self._step = step
        self._journal = journal
        self._open_host = open_host
        self._numbers = dict(past.numbers)
        self._planned = {first: version for first, version in past.switches.items() if first > step}
        """Recorded switches that are to come again."""
        earlier = {first: version for first, version in past.switches.items() if first <= step} or {0: shelf.wanted}
        self.active = open_host(shelf.path([*earlier.values()][-1]))
        self._live_since = [*earlier][-1]
        self._was_live = {*earlier.values()} - {*past.rejected}
        self._previous = self._before_active(earlier)
        """What to go back to when the live version fails."""
        has_failed = self.active.version in past.rejected and past.failed.get(self.active.version, step + 2) <= step + 1
        self._return_to = self._previous if has_failed else None
        self._handled = shelf.target.sha256 if shelf.target.sha256 in past.rejected else self._coming
        """What was wanted at the last look."""
        self._stored: vet.Stored | None = None
        self._reference = _read_reference(shelf.reference)
        self._staged: RewardHost | None = None
        """A version that is fit to go live."""
        self._old: list[RewardHost] = []
        self._refusals_read = 0
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._defect: Exception | None = None
        self._thread = threading.Thread(target=self._serve, name="reward-reload", daemon=True)

    def _before_active(self, earlier: Mapping[int, str]) -> str | None:
        good = [version for version in earlier.values() if version in self._was_live]
        return next((version for version in reversed(good) if version != self.active.version), None)

    @property
    def _coming(self) -> str:
        """The version that scores once every recorded switch is made."""
        return self._return_to or [self.active.version, *self._planned.values()][-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1)
        staged = [self._staged] if self._staged else []
        for host in [self.active, *staged, *self._old]:
            host.close()

    def begin(self, resumed: int | None) -> None:
        """Records the version the attempt begins with, unless an earlier attempt's record of it still holds, and looks
        for new ones from now on. `resumed`: the step the attempt goes on from."""
        if resumed is None or not self._past.switches:
            self._tell(self.active.version, "active", first_step=resumed or 0)
        self._thread.start()

    # ------------------------------------------------------------------------------------------ the training thread

    def turn(self, step: int) -> RewardHost:
        """The version that scores the batch of `step`: call it for every train batch, before it is scored."""
        if self._defect is not None:
            raise self._defect
        with self._lock:
            if step != self._step:
                self._step = step
                self._advance(step)
            return self.active

    def _advance(self, step: int) -> None:
        """Recorded switches come first; then what is wanted; then what a failed version is to be replaced by."""
        due = [version for first, version in self._planned.items() if first <= step]
        self._planned = {first: version for first, version in self._planned.items() if first > step}
        if due:
            self._switch(self._open_host(self._shelf.path(due[-1])), step, self._past.rejected)
        elif not self._planned and (staged := self._take_staged()) is not None:
            self._switch(staged, step)
        elif self._return_to is not None:
            self._switch(self._open_host(self._shelf.path(self._return_to)), step)

    def keep(self, calls: Sequence[GroupCall], scores: Sequence[Sequence[Score]]) -> None:
        """A scored train batch: what the next version is tried on, and at first what all versions are measured by."""
        stored = vet.store(calls, scores)
        if self._stored is None and self._reference is None:
            self._reference = _write_reference(self._shelf.reference, stored)
        self._stored = stored

    def roll_back(self, error: str) -> bool:
        """Refuses the live version for failing, if it was put live just now: the one before it scores the next step.
        False when there is nothing to go back to."""
        with self._lock:
            if self._previous is None or self._step >= self._live_since + ROLLBACK_STEPS:
                return False
            self._return_to = self._previous
            self._was_live.discard(self.active.version)
            self._tell(self.active.version, "rejected", error=error, first_step=self._step + 1)
            return True

    def _take_staged(self) -> RewardHost | None:
        """The staged version, if it is still what is wanted and nobody has to be asked any more."""
        staged = self._staged
        if staged is None or staged.version != self._shelf.wanted:
            return None
        self._staged = None
        return staged

    def _switch(self, host: RewardHost, step: int, refused: Mapping[str, str] | None = None) -> None:
        """`refused`: on a replay, versions that were left because they failed."""
        before, after = self.active, host.version
        self._old.append(before)
        self.active = host
        back, self._return_to = self._return_to, None
        if before.version == after:
            return
        error = (refused or {}).get(before.version)
        if error is not None and back is None:
            self._tell(before.version, "rejected", error=error, first_step=step)
        elif back is None:
            self._tell(before.version, "retired")
        fallback = back or (before.version if error is None else self._previous)
        self._previous = None if fallback == after else fallback
        self._live_since = step
        self._was_live.add(after)
        self._tell(after, "active", first_step=step)

    # ---------------------------------------------------------------------------------------- the looking thread

    def _serve(self) -> None:
        """Whatever goes wrong in this thread is the run's fault to tell, in the training thread."""
        try:
            while not self._closing.wait(LOOK_SECONDS):
                self._look()
        except Exception as error:
            self._defect = error

    def _look(self) -> None:
        while self._old:
            self._old.pop().close()
        self._tell_refusals()
        target = self._shelf.target
        with self._lock:
            if target.sha256 == self._handled:
                return
            self._handled = target.sha256
            self._drop_staged()
            is_new = target.sha256 != self._coming
        if is_new:
            self._stage(target)

    def _tell_refusals(self) -> None:
        """Records files that their publisher found to be no version, each content once in a run."""
        for publication, offset in self._shelf.publications(self._refusals_read):
            self._refusals_read = offset
            if publication.error is not None and publication.sha256 not in self._numbers:
                self._tell(publication.sha256, "rejected", error=publication.error)

    def _drop_staged(self) -> None:
        """Another one is wanted now."""
        staged, self._staged = self._staged, None
        if staged is not None:
            self._tell(staged.version, "retired")
            self._old.append(staged)

    def _stage(self, target: Target) -> None:
        try:
            host = self._open_host(self._shelf.path(target.sha256))
        except (RewardLoadError, ValueError, OSError) as error:
            self._tell(target.sha256, "rejected", error=_load_error(error, self._shelf.path(target.sha256)))
            return
        try:
            verdict = self._vet(host, target)
        except vet.Refused as refusal:
            host.close()
            self._tell(target.sha256, "rejected", error=str(refusal))
        except vet.Abandoned:
            host.close()
            self._handled = ""
        else:
            self._offer(host, target, verdict)

    def _offer(self, host: RewardHost, target: Target, verdict: vet.Verdict) -> None:
        changes = [events.ScoreChange(**asdict(change)) for change in verdict.changes]
        with self._lock:
            self._tell(host.version, "staged", asks=target.asks, changes=changes, reference=dict(verdict.reference))
            self._staged = host

    def _vet(self, host: RewardHost, target: Target) -> vet.Verdict:
        """On the last train batch; before there is one, it is waited for."""
        while self._stored is None:
            if self._closing.wait(LOOK_SECONDS) or not self._is_wanted(target):
                raise vet.Abandoned
        return vet.vet(
            host,
            self._stored,
            self._reference,
            step=self._step,
            strict=host.version not in self._was_live,
            is_wanted=lambda: self._is_wanted(target),
        )

    def _is_wanted(self, target: Target) -> bool:
        return not self._closing.is_set() and self._shelf.target.sha256 == target.sha256

    # ------------------------------------------------------------------------------------------------- the journal

    def _tell(self, version: str, state: Any, **fields: Any) -> None:
        """Records a change, unless the attempt has said its last word. Both threads do."""
        with self._lock:
            if self._closing.is_set():
                return
            number = self._numbers.setdefault(version, max(self._numbers.values(), default=0) + 1)
            self._journal.append(events.VersionChanged(version=version, number=number, state=state, **fields))


def _load_error(error: Exception, folder: Path) -> str:
    """What a person is told first: file, line, what; then the traceback."""
    text = str(error).replace(f"{folder}/", "")
    return f"{text}\n{error.detail}" if isinstance(error, RewardLoadError) else text


def _write_reference(path: Path, stored: vet.Stored) -> vet.Stored | None:
    """None when the examples hold what JSON does not bring back: versions are then tried on the last batch alone."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(msgspec.json.encode({"stored": stored, "means": vet.means(stored.scores)}))
    if _read_reference(part) != stored:
        part.unlink()
        return None
    part.replace(path)
    return stored


def _read_reference(path: Path) -> vet.Stored | None:
    """None where there is none yet, or only one that another release wrote."""
    try:
        content = msgspec.json.decode(path.read_bytes())
        return msgspec.convert(content["stored"], vet.Stored)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
