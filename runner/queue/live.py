"""Live fields of a job's file: what an edit of them means for the runs that are already there.

Rewards, packages and `reload` are the publisher's (`publish`), `retry` and `after` are asked of the file when they
matter, labels are nobody's. The priority is the queue's; limits are left for the trainer, which looks after each step:
by the watch, and for a run that trains in a terminal by its publisher.
"""

from __future__ import annotations

from runner.journal.folder import RunFolder, read_json, write_json
from runner.spec.load import Loaded
from runner.spec.model import dump
from runner.store.rows import RunRow
from runner.store.store import Store


def apply(store: Store, run: RunRow, loaded: Loaded) -> list[str]:
    """Makes an open run of the job follow its live fields, and its file where that was moved; gives the changes, in
    words. Raises StoreUnavailable, OSError."""
    job, changed = loaded.job, _follow_file(store.folder(run), loaded)
    if run.priority != job.priority:
        store.set_priority(run.id, job.priority)
        changed.append(f"priority {run.priority} → {job.priority}")
    return [*changed, *apply_limits(store.folder(run), loaded)]


def apply_limits(folder: RunFolder, loaded: Loaded) -> list[str]:
    """Leaves the job's limits for the trainer; gives the changes, in words. Raises OSError."""
    before, limits = limits_of(folder), dump(loaded.job)["limits"]
    if before == limits:
        return []
    write_json(folder.live_json, {"limits": limits})
    return [f"limits.{name} {before.get(name)} → {limits[name]}" for name in limits if limits[name] != before.get(name)]


def _follow_file(folder: RunFolder, loaded: Loaded) -> list[str]:
    """Where edits of rewards are looked for, and what was not copied into the run folder."""
    spec = read_json(folder.spec_json) or {}
    here = {"job_file": str(loaded.path.resolve()), "job_folder": str(loaded.folder.resolve())}
    if spec.items() >= here.items():
        return []
    write_json(folder.spec_json, spec | here)
    return [f"its job file is now {loaded.path}"]


def limits_of(folder: RunFolder) -> dict[str, object]:
    """The budgets in force, as JSON."""
    live, spec = read_json(folder.live_json) or {}, read_json(folder.spec_json) or {}
    return live.get("limits") or spec.get("job", {}).get("limits", {})
