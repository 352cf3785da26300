"""The folder's jobs: which files are sound, which are wrong and why, which are gone.

A file that can't be read or is wrong affects only itself, and not the last good version of itself. A file that is gone
for ten seconds takes its runs along, unless too many are gone at once.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.journal.failpoints import failpoint
from runner.queue.home import Home
from runner.spec.errors import Finding, JobError
from runner.spec.load import Loaded, load
from runner.spec.model import JobSpec, Retry
from runner.spec.resolve import revision
from runner.store.errors import StoreError
from runner.store.rows import RunRow
from runner.store.store import Store
from runner.watch.law import Job, Law
from runner.watch.log import Log
from runner.watch.records import Records, Status
from runner.watch.scan import Look, Scan

ABSENCE_SECONDS = 10.0
"""Editors and git take a file away for a moment; only one that stays away is deleted."""
REREAD_SECONDS = (0.5, 1.0, 2.0, 4.0)
"""When a file that could not be understood is read again, before it is called invalid: it may be half written."""
RECHECK_SECONDS = (30.0, 60.0, 120.0, 300.0)
"""When a job whose data or rewards are wrong is checked again: they may come later."""
SLICE_SECONDS = 0.5
"""Reading stops here and goes on in the next round: ten thousand new files don't keep the runs waiting."""
SLICES_PER_SCAN = 4
"""It gets so many times what the look before it took, if that is more: else looking would take most of the time."""
_BESIDE_OTHERS = frozenset({"duplicate-name", "circle"})
"""Codes of what is wrong only as long as another file is as it is."""

Listing = tuple[tuple[str, int], ...]


@dataclass(slots=True, kw_only=True)
class _Failure:
    """A file that could not be accepted."""

    since: float
    tries: int = 0
    declared: bool = False
    name: str | None = None
    """Under which it stands as invalid, now or before the last change."""
    beside: Listing | None = None
    """What lies beside it, where it is the data or the rewards that are wrong."""
    again_at: float | None = None


class Desk:
    """The folder's jobs. One thread uses it."""

    def __init__(
        self,
        home: Home,
        store: Store,
        backend: str,
        log: Log,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._home, self._log = home, log
        self._clock, self._wall = clock, wall
        self._scan = Scan(home.jobs, home.path, clock, wall)
        self.jobs: dict[str, Job] = {}
        self._law = Law(home, store, backend, log, self._is_taken)
        self._records = Records(home, store)
        self._names: dict[Path, str] = {}
        self._failures: dict[Path, _Failure] = {}
        self._unread: dict[Path, None] = {}
        self._present: frozenset[Path] = frozenset()
        self._displaced: dict[str, Job] = {}
        """Those of `jobs` whose file is away, or is another job's now."""
        self.away = False
        """The folder is missing or can't be read."""
        self.is_settled = False
        """Every file there has been read and judged."""
        self._restore()

    @property
    def invalid(self) -> int:
        """How many files stand as invalid."""
        return sum(failure.declared for failure in self._failures.values())

    @property
    def unread(self) -> int:
        """How many files the last round had no time for."""
        return len(self._unread)

    def look(self, closed: Collection[str] = ()) -> None:
        """One round: reads what is new, acts on it, and notes what is gone. Raises StoreUnavailable."""
        failpoint("watch.look")
        began = time.monotonic()
        look = self._scan.look(closed)
        if not look.available:
            self._say_away()
            return
        self.away = self.is_settled = False
        self._present = look.present
        self._displaced = {job.name: job for job in self.jobs.values() if not self._is_at(job)}
        for path, reason in look.refused.items():
            self._refuse(path, reason)
        for path in look.settled:
            self._begin_again(path)
        self._queue_up([*look.settled, *self._due()])
        self._law.flush()  # what a full disk has left
        self._read_some(max(SLICE_SECONDS, SLICES_PER_SCAN * (time.monotonic() - began)))
        self._note_absences(look)
        self._records.flush(self._wall())
        self.is_settled = not (look.waiting or self._unread or not all(f.declared for f in self._failures.values()))

    # What the rest of the watch asks

    def retry_of(self, run: RunRow) -> Retry | None:
        """The job's policy as its file says now, else as the run was submitted with. None for a run whose job isn't in
        the folder, and as long as its file has not been read."""
        job = self._job_of(run.job)
        if job is None or (job.retry is None and not self.is_settled):
            return None
        return job.retry or Retry.model_validate(json.loads(run.spec).get("retry", {}))

    def after_of(self, name: str) -> tuple[str, ...] | None:
        """The jobs that must succeed first; None for a job that isn't in the folder."""
        job = self._job_of(name)
        return None if job is None or job.retry is None else job.after

    def _job_of(self, name: str) -> Job | None:
        if name in self.jobs:
            return self.jobs[name]
        return next((job for job in self.jobs.values() if name in job.aliases), None)

    # Reading

    def _restore(self) -> None:
        for status in self._records.restore():
            path = self._home.path / status.path
            if status.revision is not None:  # also of a file that is invalid now: its last sound version stands
                self.jobs[status.name] = Job(
                    name=status.name, path=path, revision=status.revision, aliases=status.aliases
                )
                self._names[path] = status.name
            if status.state == "invalid":
                self._failures[path] = _Failure(since=self._clock(), declared=True, name=status.name)

    def _due(self) -> Iterator[Path]:
        now = self._clock()
        for path, failure in self._failures.items():
            if path not in self._present:
                continue
            its_time = failure.again_at is not None and now >= failure.again_at
            if its_time or (failure.beside is not None and failure.beside != _beside(path, self._home.jobs)):
                yield path

    def _queue_up(self, paths: Collection[Path]) -> None:
        """Those that had a name before are read first: of two files with one name, and of a circle of jobs, the older
        file is right."""
        if paths:
            unread = self._unread.keys() | paths
            self._unread = dict.fromkeys(sorted(unread, key=lambda path: (path not in self._names, str(path))))

    def _read_some(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for path in list(self._unread):
            if path in self._present:
                self._read(path)
            del self._unread[path]  # not before: a full disk must not lose it
            if time.monotonic() > deadline:
                break
        self._law.flush()

    def _read(self, path: Path) -> None:
        beside = None
        try:
            loaded = load(path)
            beside = _beside(path, self._home.jobs)
            self._accept(path, loaded)
        except JobError as error:
            self._fail(path, error.findings, beside)
        except (StoreError, OSError):
            raise
        except Exception as error:  # a file that shows a defect of ours must not stop the others
            self._fail(
                path, [Finding(code="internal", message=f"{type(error).__name__}: {error}", file=str(path))], beside
            )
        else:
            failure = self._failures.pop(path, None)
            if failure is not None and failure.name not in (None, self._names[path]):
                self._records.remove(failure.name)

    def _begin_again(self, path: Path) -> None:
        """The file has changed: what was wrong with it may not be any more."""
        if failure := self._failures.get(path):
            self._failures[path] = _Failure(since=self._clock(), name=failure.name)

    def _accept(self, path: Path, loaded: Loaded) -> None:
        """Raises JobError for a job that can't stand beside the others, or whose data or rewards are wrong."""
        owner = self.jobs.get(loaded.name)
        if owner is not None and owner.path != path and self._is_at(owner):
            message = f"{loaded.name} is the name of {self._shown(owner.path)}"
            raise _error(path, "duplicate-name", "name", message, "give one of them another name")
        self._refuse_circle(path, loaded.job)
        old = owner or self._renamed_from(loaded.job)
        job = Job(
            name=loaded.name,
            path=path,
            revision=revision(loaded.job),
            aliases=_aliases(old, loaded.name),
            priority=loaded.job.priority,
            after=tuple(loaded.job.after),
            retry=loaded.job.retry,
        )
        self._law.came(job, loaded, old)
        failpoint("watch.accepted")
        if old is not None:
            self._drop(old)
        if (before := self.jobs.get(self._names.get(path, ""))) is not None:
            self._displaced[before.name] = before
        self.jobs[job.name] = job
        self._names[path] = job.name
        self._note(job)

    def _drop(self, old: Job) -> None:
        """Forgets what the job was, under its old name or at its old place."""
        del self.jobs[old.name]
        self._displaced.pop(old.name, None)
        if self._names.get(old.path) == old.name:
            del self._names[old.path]

    def _note(self, job: Job) -> None:
        self._records.put(
            Status(
                name=job.name,
                path=self._shown(job.path),
                state="missing" if job.unavailable else "valid",
                revision=job.revision,
                aliases=job.aliases,
            )
        )

    def _renamed_from(self, spec: JobSpec) -> Job | None:
        """The job that this file was under another name: the same but for the name, and away now."""
        for job in self._displaced.values():
            if revision(spec.model_copy(update={"name": job.name})) == job.revision:
                self._records.remove(job.name)
                self._log("renamed", job=spec.name, was=job.name)
                return job
        return None

    def _refuse_circle(self, path: Path, spec: JobSpec) -> None:
        """Raises JobError when the job would wait for itself."""
        seen, ahead = set[str](), list(spec.after)
        while ahead:
            name = ahead.pop()
            if name == spec.name:
                raise _error(path, "circle", "after", f"{name} would wait for itself", "leave out one of the jobs")
            if name not in seen:
                seen.add(name)
                ahead += self.jobs[name].after if name in self.jobs else ()

    # Files that are wrong

    def _fail(self, path: Path, findings: Collection[Finding], beside: Listing | None) -> None:
        now = self._clock()
        failure = self._failures.setdefault(path, _Failure(since=now))
        among_others = any(finding.code in _BESIDE_OTHERS for finding in findings)
        failure.beside = None if among_others else beside
        if not failure.declared and failure.tries < len(REREAD_SECONDS) and not self._is_complete(path, failure):
            failure.again_at = failure.since + REREAD_SECONDS[failure.tries]
        elif among_others:
            failure.again_at = now + 5
            self._declare(path, failure, findings)
        else:
            checks = min(max(0, failure.tries - len(REREAD_SECONDS)), len(RECHECK_SECONDS) - 1)
            failure.again_at = None if beside is None else now + RECHECK_SECONDS[checks]
            self._declare(path, failure, findings)
        failure.tries += 1

    def _is_complete(self, path: Path, failure: _Failure) -> bool:
        """Whether nobody can be writing it, or what belongs to it, any more."""
        return failure.beside is None and self._scan.is_old(path)

    def _refuse(self, path: Path, reason: str) -> None:
        failure = self._failures.setdefault(path, _Failure(since=self._clock()))
        self._declare(path, failure, [Finding(code="file", message=reason, file=str(path))])

    def _declare(self, path: Path, failure: _Failure, findings: Collection[Finding]) -> None:
        """The file stands as invalid; the job that it was stays as it was, with its runs."""
        name = failure.name or self._names.get(path) or self._own_name(path)
        failure.name, failure.declared = name, True
        job = self.jobs.get(name)
        known = job if job is not None and job.path == path else None
        status = Status(
            name=name,
            path=self._shown(path),
            state="invalid",
            revision=known.revision if known else None,
            aliases=known.aliases if known else (),
            findings=tuple(findings),
        )
        if self._records.put(status):
            first = next(iter(findings))
            place = f"{self._shown(path)}:{first.line}" if first.line else self._shown(path)
            error = ": ".join(text for text in (first.field, first.message) if text)
            self._log("invalid", level="warning", job=name, at=place, error=error, hint=first.hint or None)

    def _own_name(self, path: Path) -> str:
        """A name for a file that has none that holds: the folder's or its own, else its path."""
        name = path.parent.name if path.stem == "job" else path.stem
        taken = name in self.jobs or any(f.name == name for f in self._failures.values())
        return str(path.relative_to(self._home.jobs)) if taken or not name else name

    # Files that are gone

    def _note_absences(self, look: Look) -> None:
        now = self._clock()
        absent = list(self._displaced.values())
        for job in self.jobs.values():
            if job.absent_since is not None and job.name not in self._displaced:
                job.absent_since, job.unavailable = None, False
                self._note(job)
        for job in absent:
            job.absent_since = now if job.absent_since is None else job.absent_since
        self._guard(absent, look)
        for job in absent:
            if now - (job.absent_since or 0.0) >= ABSENCE_SECONDS and self._may_go(job):
                self._delete(job)
        for path in [path for path in self._failures if path not in self._present]:
            failure = self._failures.pop(path)
            if failure.name is not None and failure.name not in self.jobs:
                self._records.remove(failure.name)

    def _may_go(self, job: Job) -> bool:
        """One that is gone with too many others is forgotten only where nothing hangs on it."""
        return not job.unavailable or not (job.aliases or self._law.open_runs(job))

    def _guard(self, absent: list[Job], look: Look) -> None:
        """Many files gone at once is a folder that was unmounted or moved more often than it is a wish."""
        fresh = [job for job in absent if not job.unavailable]
        if not fresh or not (look.replaced or len(absent) > max(3, len(self.jobs) // 2)):
            return
        for job in fresh:
            job.unavailable = True
            self._note(job)
        hint = "put them back, or `runner cancel` what is not wanted"
        self._log("files_missing", level="error", count=len(absent), known=len(self.jobs), hint=hint)

    def _delete(self, job: Job) -> None:
        self._law.gone(job)
        self._drop(job)
        self._records.remove(job.name)
        self._log("deleted", job=job.name)

    def _say_away(self) -> None:
        if not self.away:
            hint = "nothing is cancelled; runs go on"
            self._log("folder_unavailable", level="error", folder=str(self._home.jobs), hint=hint)
        self.away = True
        self.is_settled = True

    def _is_at(self, job: Job) -> bool:
        """Whether the job's file is there, and is still that job's."""
        return job.path in self._present and self._names.get(job.path) == job.name

    def _is_taken(self, name: str) -> bool:
        return name in self.jobs and self._is_at(self.jobs[name])

    def _shown(self, path: Path) -> str:
        return str(path.relative_to(self._home.path))


def _aliases(old: Job | None, name: str) -> tuple[str, ...]:
    if old is None:
        return ()
    return tuple(dict.fromkeys(known for known in (*old.aliases, old.name) if known != name))


def _error(path: Path, code: str, field: str, message: str, hint: str) -> JobError:
    return JobError([Finding(code=code, message=message, hint=hint, field=field, file=str(path))])


def _beside(path: Path, jobs: Path) -> Listing:
    """What lies in the job's own folder, and when it was changed. Nothing for a job directly in `jobs/`."""
    if path.parent == jobs:
        return ()
    try:
        with os.scandir(path.parent) as entries:
            return tuple(sorted((entry.name, entry.stat().st_mtime_ns) for entry in entries))
    except OSError:
        return ()
