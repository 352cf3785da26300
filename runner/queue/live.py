"""Live fields of a job's file: what an edit of them means for the runs that are already there.

Rewards, packages and `reload` are the publisher's (`publish`), `retry` and `after` are asked of the file when they
matter, labels are nobody's. The priority is the queue's; limits are left for the trainer, which looks after each step.
"""

from __future__ import annotations

from runner.journal.folder import RunFolder, read_json, write_json
from runner.spec.model import JobSpec, dump
from runner.store.rows import RunRow
from runner.store.store import Store


def apply(store: Store, run: RunRow, job: JobSpec) -> list[str]:
    """Makes an open run of the job follow its live fields; gives what has changed, in words. Raises StoreUnavailable,
    OSError."""
    changed: list[str] = []
    if run.priority != job.priority:
        store.set_priority(run.id, job.priority)
        changed.append(f"priority {run.priority} → {job.priority}")
    folder, limits = store.folder(run), dump(job)["limits"]
    if (before := limits_of(folder)) != limits:
        write_json(folder.live_json, {"limits": limits})
        changed += [
            f"limits.{name} {before.get(name)} → {limits[name]}" for name in limits if limits[name] != before.get(name)
        ]
    return changed


def limits_of(folder: RunFolder) -> dict[str, object]:
    """The budgets in force, as JSON."""
    live, spec = read_json(folder.live_json) or {}, read_json(folder.spec_json) or {}
    return live.get("limits") or spec.get("job", {}).get("limits", {})
