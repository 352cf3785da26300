"""Reward versions for a run that is there: from edited files, from Python, or from its own past.

A publisher only leaves versions in the run folder; the trainer vets them and puts them live. It runs none of the code.

The files are looked at by their stat, 50 times a second: a handful of stat calls cost less than a file watcher's
threads, miss nothing, and work on every file system. Saves close to each other make one version: files are read when
they have been quiet for a moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.journal.folder import RunFolder, read_json
from runner.queue.home import Home
from runner.queue.live import apply_limits
from runner.queue.local import Supervisor, conclude
from runner.rewards import bundle
from runner.rewards.capture import capture, name_of
from runner.rewards.versions import Shelf
from runner.spec.errors import JobError
from runner.spec.load import Loaded, load
from runner.store import queries
from runner.store.errors import StoreError
from runner.store.rows import RewardVersionRow
from runner.store.store import Store

LOOK_SECONDS = 0.02
QUIET_SECONDS = 0.1
"""Without a change until the files are read."""
PATIENCE_SECONDS = 0.5
"""Of changes without a pause after which the files are read all the same."""

Stat = tuple[str, int, int, int]
"""Path, inode, size, time of the last change in ns."""


class Publisher:
    """Publishes the edits of one run's job. Of several for the same run only one is at work."""

    def __init__(self, folder: RunFolder) -> None:
        spec = read_json(folder.spec_json) or {}
        self._job_file = Path(spec["job_file"])
        self._folder = Path(spec["job_folder"])
        self._overrides: list[str] = spec["overrides"]
        self._shelf = Shelf(folder.rewards)
        self._sources: set[Path] = {self._folder}
        """Folders that the sources are in."""
        self._read: frozenset[Stat] = frozenset()
        self._seen: frozenset[Stat] = frozenset()
        self._changed_at = self._restless_since = 0.0
        self._lock: int | None = None

    def look(self) -> Loaded | None:
        """Publishes what the files say now, if they have changed and come to rest; gives the job as it was read for
        that. Call it often."""
        if not self._is_the_one():
            return None
        stats, now = frozenset(self._stats()), time.monotonic()
        if stats == self._read:
            self._seen = stats
            return None
        if self._seen == self._read:
            self._restless_since = now
        if stats != self._seen:
            self._seen, self._changed_at = stats, now
        if now - self._changed_at >= QUIET_SECONDS or now - self._restless_since >= PATIENCE_SECONDS:
            return self._publish(stats)
        return None

    def close(self) -> None:
        """Lets another publisher take over."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _is_the_one(self) -> bool:
        if self._lock is None:
            descriptor = os.open(self._shelf.folder / ".publisher", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            self._lock = descriptor
        return True

    def _publish(self, stats: frozenset[Stat]) -> Loaded | None:
        try:
            loaded = load(self._job_file, self._overrides)
            built = bundle.locked(bundle.build(loaded.job.rewards, loaded.folder, loaded.job.packages))
            error = None
        except JobError as found:
            loaded = built = None
            error = _in_words(found, self._folder)
        if frozenset(self._stats()) != stats:
            return None  # changed while they were read
        if error is not None:
            self._refuse(stats, error)
        if loaded is not None and built is not None:
            self._sources = {self._folder, *((self._folder / path).parent for path in built.sources)}
            if loaded.job.reload != "off" and built.sha256 != last_of_files(self._shelf):
                self._shelf.publish(built, "edit", asks=loaded.job.reload == "ask")
        self._read = stats
        return loaded

    def _refuse(self, stats: frozenset[Stat], error: str) -> None:
        """Each content once."""
        digest = hashlib.sha256()
        for path, *_ in sorted(stats):
            with contextlib.suppress(OSError):
                digest.update(path.encode() + b"\0" + Path(path).read_bytes())
        content = digest.hexdigest()
        if all(line.sha256 != content for line, _ in self._shelf.publications()):
            self._shelf.refuse(content, error)

    def _stats(self) -> Iterator[Stat]:
        """Of the job file, and of the Python files and folders beside every source: where an import may come from."""
        yield from _stat(self._job_file)
        for folder in self._sources:
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.name.startswith((".", "__pycache__")) and (
                        entry.name.endswith(".py") or entry.is_dir()
                    ):
                        yield from _stat(Path(entry.path))


def _stat(path: Path) -> Iterator[Stat]:
    """Nothing for what is gone."""
    with contextlib.suppress(OSError):
        found = path.stat()
        yield str(path), found.st_ino, found.st_size, found.st_mtime_ns


def _in_words(error: JobError, folder: Path) -> str:
    """One line for each finding, files as they are called in the job's folder."""
    return str(error).replace(f"{folder}/", "")


def last_of_files(shelf: Shelf) -> str:
    """The version that the job's files had when they last were published."""
    of_files = [line.sha256 for line, _ in shelf.publications() if line.by in ("submit", "edit") and not line.error]
    return of_files[-1] if of_files else shelf.wanted


def publish_edits(folder: RunFolder, supervisor: Supervisor) -> None:
    """Publishes the run's edits, and follows its limits, from a thread of this process, until its supervisor has
    ended."""
    threading.Thread(target=_publish_edits, args=(folder, supervisor), name="reward-publisher", daemon=True).start()


def _publish_edits(folder: RunFolder, supervisor: Supervisor) -> None:
    publisher = Publisher(folder)
    try:
        while supervisor.poll() is None:
            with contextlib.suppress(OSError):  # a full disk, files that are just being replaced: looked at again
                if (loaded := publisher.look()) is not None:
                    apply_limits(folder, loaded)
            time.sleep(LOOK_SECONDS)
    finally:
        publisher.close()


# ----------------------------------------------------------------------------------------------------- other ways


def update_function(
    home: Home, store: Store, run_id: str, name: str, function: Callable[..., Any], weight: float | None
) -> str:
    """Publishes the wanted version with the reward `name` replaced, or added, by a function. The version's sha256.

    Raises CaptureError for a function that can't be written out, StoreError when the run has ended.
    """
    versions = _versions_of_open_run(home, store, run_id)
    shelf = Shelf(home.run(run_id).rewards)
    base = shelf.target.sha256
    if any(row.sha256 == base and row.state == "rejected" for row in versions):
        base = live_version(versions) or base
    source, attribute = capture({name: function}), name_of(function)
    updated = bundle.with_function(shelf.bundle(base), shelf.path(base), name, source, attribute, weight)
    shelf.publish(updated, "call")
    return updated.sha256


def publish_sources(home: Home, store: Store, run_id: str, base: str, edited: Mapping[str, str], expected: str) -> str:
    """Publishes the version `base` with some of its files edited; gives the sha256 of the version that makes.

    `expected`: the version that whoever edited believed to be the wanted one; an edit that came in between is not
    overwritten unseen. Raises StoreError for that and when the run has ended, JobError for files that make no version.
    """
    _versions_of_open_run(home, store, run_id)
    shelf = Shelf(home.run(run_id).rewards)
    if shelf.target.sha256 != expected:
        raise StoreError(f"the rewards of {run_id} were changed in between; look at the latest version, then publish")
    updated = bundle.with_sources(_known(shelf, base), edited)
    shelf.publish(updated, "lab")
    return updated.sha256


def save_sources(folder: RunFolder, base: str, edited: Mapping[str, str]) -> list[Path]:
    """Writes edited files of the version `base` into the job's folder, each at once; gives their paths.

    Raises StoreError, before anything is written, where a file there is not the version's any more: somebody else has
    edited it. JobError for files that make no version.
    """
    version = _known(Shelf(folder.rewards), base)
    bundle.with_sources(version, edited)
    job_folder = Path((read_json(folder.spec_json) or {})["job_folder"])
    targets = {job_folder / path: (version.sources[path], text.encode()) for path, text in edited.items()}
    for path, (old, new) in targets.items():
        if not path.is_file() or path.read_bytes() not in (old, new):
            raise StoreError(f"{path} is not the file of this reward version any more; copy your edit there by hand")
    for path, (_, new) in targets.items():
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        part.write_bytes(new)
        part.chmod(path.stat().st_mode & 0o777)
        part.replace(path)
    return list(targets)


def _known(shelf: Shelf, sha256: str) -> bundle.Bundle:
    try:
        return shelf.bundle(sha256)
    except (OSError, ValueError) as error:
        raise StoreError(f"reward version {sha256[:12]} can't be read: {error}") from error


def rollback(home: Home, store: Store, run_id: str, to: int | None = None) -> RewardVersionRow:
    """Wants an earlier version back: number `to`, or the one that was live before. Raises StoreError."""
    versions = _versions_of_open_run(home, store, run_id)
    if to is None:
        row = _before_the_live_one(store, run_id, versions)
    elif (row := next((row for row in versions if row.version == to), None)) is None:
        raise StoreError(f"{run_id} has no reward version {to}; it has {', '.join(str(r.version) for r in versions)}")
    if row.state == "rejected":
        why = (row.error or "").partition("\n")[0]
        raise StoreError(f"reward version {row.version} was refused: {why}; `runner reward history {run_id}`")
    Shelf(home.run(run_id).rewards).want(row.sha256, "rollback")
    return row


def _before_the_live_one(store: Store, run_id: str, versions: list[RewardVersionRow]) -> RewardVersionRow:
    by_hash = {row.sha256: row for row in versions}
    events = queries.events(store, run_id, types=["version_changed"])
    live = [event.data["version"] for event in events if event.data and event.data["state"] == "active"]
    for sha256 in reversed(live):
        row = by_hash.get(sha256)
        if row is not None and row.state == "retired":
            return row
    raise StoreError(f"{run_id} has had no other reward version live; `runner reward history {run_id}` lists them")


def accept(home: Home, store: Store, run_id: str) -> RewardVersionRow:
    """Lets the version that waits for a word (`reload: ask`) go live. Raises StoreError."""
    versions = _versions_of_open_run(home, store, run_id)
    shelf = Shelf(home.run(run_id).rewards)
    row = next((row for row in versions if row.sha256 == shelf.proposed), None)
    if row is None or row.state != "staged":
        raise StoreError(f"no reward version of {run_id} waits for a word; `runner reward history {run_id}` lists them")
    shelf.want(row.sha256, "accept")
    return row


def live_version(versions: Sequence[RewardVersionRow]) -> str | None:
    """sha256 of the version that scores, or scored last; None before the run has begun."""
    return next((row.sha256 for row in versions if row.state == "active"), None)


def _versions_of_open_run(home: Home, store: Store, run_id: str) -> list[RewardVersionRow]:
    conclude(home, store, run_id)
    run = store.run(run_id)
    if run.state.is_final:
        raise StoreError(f"{run_id} has {run.state}; `runner rerun {run_id}` takes the files as they are now")
    return queries.reward_versions(store, run_id)


# ---------------------------------------------------------------------------------------------------------- drift


@dataclass(frozen=True, slots=True)
class Drift:
    """The job's files say something else than the version that the run used last."""

    sha256: str | None
    """Of the version they would make; None when they make none."""
    error: str = ""


def drift(folder: RunFolder, live: str) -> Drift | None:
    """None when the files are the version `live`, or are gone."""
    spec = read_json(folder.spec_json) or {}
    job_file = Path(spec["job_file"])
    if not job_file.exists():
        return None
    try:
        loaded = load(job_file, spec["overrides"])
        built = bundle.locked(bundle.build(loaded.job.rewards, loaded.folder, loaded.job.packages))
    except JobError as error:
        return Drift(None, _in_words(error, job_file.parent))
    return None if built.sha256 == live else Drift(built.sha256)
