"""A checked job into the queue: the run folder gets all that decides the result."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from runner.journal.completions import RUN, recorded
from runner.journal.events import Difference
from runner.journal.folder import RunFolder, write_json
from runner.queue.jobs import Checked
from runner.rewards import bundle
from runner.rewards.environment import ensure
from runner.rewards.versions import Shelf
from runner.spec.errors import JobError
from runner.spec.model import JobSpec, dump
from runner.spec.resolve import revision
from runner.store.store import Store
from runner.store.submission import Submission

Device = Literal["gpu", "cpu"]

COPY_AT_MOST = 64 << 20
"""Data files up to this many bytes are copied into the run folder; larger ones are only hashed."""


def submit(
    store: Store, checked: Checked, device: Device = "gpu", fork: Path | None = None, parent: str | None = None
) -> str:
    """Puts a run in the queue and gives its id. Raises JobError for rewards whose environment can't be made."""
    return store.submit(prepare(checked, device, fork, parent))


def prepare(
    checked: Checked, device: Device = "gpu", fork: Path | None = None, parent: str | None = None
) -> Submission:
    """What `Store.submit` takes. `device`: what the TRL backend is to train on. `fork`: a checkpoint folder that the
    run goes on from, `parent` its run as `id@step`. Raises JobError for rewards whose environment can't be made."""
    try:
        rewards = bundle.locked(checked.rewards)
    except JobError as error:
        raise JobError(checked.loaded.locate(error.findings)) from None
    data = replace(checked.data, train=(), eval=())  # the rows lie in the file; many jobs may wait to be submitted
    checked = replace(checked, rewards=rewards, data=data)
    return Submission(
        job=checked.loaded.name,
        revision=revision(checked.loaded.job),
        backend=checked.backend,
        emulated=checked.backend == "emulator",
        spec=json.dumps(dump(checked.job)),
        total_steps=checked.job.grpo.steps,
        priority=checked.job.priority,
        parent=parent,
        fill=lambda folder: _fill(folder, checked, device, fork),
    )


def _fill(folder: RunFolder, checked: Checked, device: Device, fork: Path | None) -> None:
    loaded = checked.loaded
    folder.source.mkdir(parents=True)
    folder.checkpoints.mkdir()
    (folder.source / loaded.path.name).write_text(loaded.source)
    for path in _inputs(checked.job):
        _copy(loaded.folder / path, folder.source / path)
    _keep_recorded(folder, checked.job.emulator.completions)
    Shelf(folder.rewards).publish(checked.rewards, "submit")
    if checked.rewards.packages is not None:
        write_json(folder.environment_json, environment(checked.rewards))
    if fork is not None:
        shutil.copytree(fork, folder.checkpoints / fork.name)
    write_json(
        folder.spec_json,
        {
            "job": dump(checked.job),
            "job_file": str(loaded.path.resolve()),
            "job_folder": str(loaded.folder.resolve()),
            "device": device,
            "overrides": list(loaded.overrides),
            "data_sha256": checked.data.sha256,
            "differences": [_plain(difference) for difference in checked.differences],
        },
    )


def environment(rewards: bundle.Bundle) -> dict[str, Any]:
    """What the rewards run in, as it was found when the run was submitted."""
    assert rewards.packages is not None
    return asdict(ensure(rewards.packages))


def _inputs(job: JobSpec) -> list[str]:
    """Files that decide the result, beside the rewards."""
    named = [job.emulator.demonstrations, job.emulator.completions if job.emulator.policy == "replay" else None]
    paths = [job.dataset.path, *(path for path in named if path is not None and not path.startswith(RUN))]
    return [path for path in paths if not Path(path).is_absolute() and ".." not in path]


def _keep_recorded(folder: RunFolder, completions: str | None) -> None:
    """What an earlier run recorded, in a file of its own: the run may go away, or go on."""
    if completions is not None and completions.startswith(RUN):
        rows = recorded(folder.path.parent / completions.removeprefix(RUN))
        (folder.source / completions).write_text("".join(json.dumps(row) + "\n" for row in rows))


def _copy(source: Path, target: Path) -> None:
    if source.is_file() and source.stat().st_size <= COPY_AT_MOST:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _plain(difference: Difference) -> dict[str, str]:
    return {"field": difference.field, "asked": difference.asked, "kind": difference.kind, "detail": difference.detail}
