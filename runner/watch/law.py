"""From sound job files to runs: the law of the queue.

A new (job, revision, backend) starts a run by itself, and nothing else does: not a re-save, not another comment, not an
edit of rewards, not the next `runner watch`. An edit while its run waits takes that run's place; an edit while it runs
becomes the one pending run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runner.journal.folder import read_json
from runner.journal.states import Reason, State
from runner.queue import live, local
from runner.queue.home import Home
from runner.queue.jobs import check
from runner.queue.submit import prepare
from runner.spec.errors import Finding
from runner.spec.load import Loaded
from runner.spec.model import JobSpec, Retry
from runner.spec.resolve import revision
from runner.store import queries
from runner.store.rows import RunRow
from runner.store.store import Store
from runner.store.submission import Submission
from runner.watch.log import Log

_NEVER_BEGAN = {(State.SUPERSEDED, Reason.SUPERSEDED), (State.CANCELLED, Reason.SPEC_DELETED)}
_OPEN = (State.QUEUED, State.STARTING, State.RUNNING)
_UNFINISHED = (*_OPEN, State.HELD)
GROUP = 50
"""So many new jobs go into the queue in one transaction: each has to reach the disk."""


@dataclass(slots=True, kw_only=True)
class Job:
    """A sound job file, as last read."""

    name: str
    path: Path
    revision: str | None
    aliases: tuple[str, ...] = ()
    """Names it had before its file was renamed: their runs are its runs."""
    priority: int = 0
    after: tuple[str, ...] = ()
    retry: Retry | None = None
    """None until the file has been read by this watch."""
    absent_since: float | None = None
    unavailable: bool = False
    """Gone together with too many others: nothing is concluded from that."""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


class Law:
    """What a job file's coming, change and going mean for the runs on one backend."""

    def __init__(self, home: Home, store: Store, backend: str, log: Log, is_taken: Callable[[str], bool]) -> None:
        """`is_taken`: whether a job file has the name now. What waits or runs under a name that another file has taken
        since is that file's, though the renamed job does not run again what it ran under it."""
        self._home, self._store, self.backend, self._log, self._is_taken = home, store, backend, log, is_taken
        self._due: dict[str, tuple[Submission, list[Finding]]] = {}

    def came(self, job: Job, loaded: Loaded, old: Job | None) -> None:
        """The file is new or changed; `old` is what it was. Raises JobError when data or rewards of a new run are
        wrong. The run of a job that was not there before is submitted by `flush`, at the latest."""
        if old is not None or job.name in self._due or len(self._due) >= GROUP:
            self.flush()
        is_new = not (self._has_run(job, loaded.job) or self._is_as_submitted(job, loaded))
        if is_new:
            self._prepare(job, loaded)
            if old is not None:
                self.flush()
        else:
            self._drop_pending(job, old)
        if old is not None or not is_new:
            self._follow_live_fields(job, loaded)

    def flush(self) -> None:
        """Submits what is due. Raises StoreUnavailable, OSError; then all of it stays due."""
        if not self._due:
            return
        run_ids = self._store.submit_all([new for new, _ in self._due.values()])
        due, self._due = self._due, {}
        for run_id, (new, warnings) in zip(run_ids, due.values(), strict=True):
            self._log(
                "submitted",
                job=new.job,
                run=run_id,
                revision=new.revision[:12],
                warnings="; ".join(finding.message for finding in warnings) or None,
            )

    def _follow_live_fields(self, job: Job, loaded: Loaded) -> None:
        for run in self._runs(job, _UNFINISHED):
            if changed := live.apply(self._store, run, loaded):
                self._log("live_edit", job=job.name, run=run.id, changed="; ".join(changed))

    def gone(self, job: Job) -> None:
        """The file is deleted: what waits is cancelled, what runs is stopped with a checkpoint."""
        for run in self.open_runs(job):
            local.cancel(self._home, self._store, run.id, "delete")

    def open_runs(self, job: Job) -> list[RunRow]:
        """Runs of the job that wait or run."""
        return self._runs(job, _OPEN)

    def _runs(self, job: Job, states: tuple[State, ...]) -> list[RunRow]:
        names = (job.name, *self._former(job))
        found = [run for name in names for run in queries.runs(self._store, job=name, states=states)]
        return [run for run in found if run.backend == self.backend]

    def _former(self, job: Job) -> list[str]:
        return [name for name in job.aliases if not self._is_taken(name)]

    def _prepare(self, job: Job, loaded: Loaded) -> None:
        checked = check(loaded, self.backend)
        for name in self._former(job):
            if pending := self._store.sibling(name, self.backend, (State.QUEUED,)):
                self._supersede(pending, f"renamed to {job.name}")
        self._due[job.name] = prepare(checked), checked.warnings

    def _has_run(self, job: Job, spec: JobSpec) -> bool:
        """Whether this revision is running, waiting, or over. A run that never began, because an edit took its place or
        because the file was deleted, does not count."""
        for name in job.names:
            as_named = revision(spec.model_copy(update={"name": name}))
            for run in queries.revision_runs(self._store, name, as_named, self.backend):
                waits_under_old_name = name != job.name and run.state is State.QUEUED and run.started_at is None
                never_began = (run.state, run.reason) in _NEVER_BEGAN and run.started_at is None
                if not (waits_under_old_name or never_began):
                    return True
        return False

    def _is_as_submitted(self, job: Job, loaded: Loaded) -> bool:
        """Whether the file is, byte for byte, what the latest run was made of. Its revision can be another one all the
        same: a newer runner knows more fields. An upgrade must not run every job again."""
        for run in queries.runs(self._store, job=job.name, limit=20):
            if run.backend == self.backend and not ((run.state, run.reason) in _NEVER_BEGAN and run.started_at is None):
                folder = self._home.run(run.id)
                source = folder.source / job.path.name
                plain = not (read_json(folder.spec_json) or {}).get("overrides")
                if plain and source.is_file() and source.read_text() == loaded.source:
                    job.revision = run.revision
                    return True
                return False
        return False

    def _drop_pending(self, job: Job, old: Job | None) -> None:
        """The file is back at a revision that has its run: what it asked for in between has not to run any more."""
        pending = self._store.sibling(job.name, self.backend, (State.QUEUED,))
        if old is None or old.revision == job.revision or pending is None:
            return
        if self._store.run(pending).revision == old.revision:
            self._supersede(pending, "the job file is back at an earlier revision")

    def _supersede(self, run_id: str, detail: str) -> None:
        self._store.transition(run_id, State.SUPERSEDED, Reason.SUPERSEDED, detail)
