"""What job files lie in the folder now, and which of them are ready to be read.

The directory is the truth; events only say when to look (`hints`), for they get lost: the kernel's queue overflows, and
a folder that is replaced goes silent. A file is ready when its writer has closed it, when two looks 0.3 s apart find it
equal, or when it has lain there for a while. Looking costs two `stat` calls for a job in a folder of its own.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ENDINGS = (".yaml", ".yml", ".json")
SETTLE_SECONDS = 0.3
OLD_SECONDS = 2.0
"""A file whose inode has not changed for this long is not being written."""
MAX_BYTES = 256 * 1024
_IGNORED = re.compile(
    "|".join(
        fnmatch.translate(pattern)
        for pattern in (".*", "*~", "*.swp", "*.swx", "*.tmp", "*.bak", "*.orig", "*.part", "4913", "#*#")
    )
)
"""Hidden files, and what editors and copying programs leave for a moment."""


class Mark(NamedTuple):
    """What changes when a file does. ctime can't be set by anybody."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


@dataclass(slots=True)
class _Seen:
    mark: Mark
    since: float
    taken: bool = False
    """Given out as settled, or refused, with this mark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The folder at one moment."""

    available: bool = True
    """False when the folder is missing or can't be read; then nothing else is known."""
    replaced: bool = False
    """It is another folder than at the look before: deleted and made again, or (un)mounted."""
    present: frozenset[Path] = frozenset()
    """Every job file, whatever is in it."""
    settled: tuple[Path, ...] = ()
    """New or changed, and ready to be read."""
    refused: dict[Path, str] = field(default_factory=dict[Path, str])
    """New or changed, and no job file for a reason: never opened."""
    waiting: bool = False
    """Some file is still being written: look again soon."""


def is_ignored(name: str) -> bool:
    return _IGNORED.match(name) is not None


class Scan:
    """Looks at `jobs/`: `<name>.yaml` and `<name>/job.yaml`, also `.yml` and `.json`. One thread uses it."""

    def __init__(
        self, jobs: Path, home: Path, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self._jobs, self._home = jobs, home.resolve()
        self._clock, self._wall = clock, wall
        self._seen: dict[Path, _Seen] = {}
        self._folders: dict[str, tuple[Mark, int, list[tuple[Path, bool]]]] = {}
        self._paths: dict[str, Path] = {}
        """By file name: making and hashing ten thousand paths anew at each look would take longer than their stats."""
        self._identity: tuple[int, int] | None = None

    def look(self, closed: Collection[str] = ()) -> Look:
        """`closed`: paths of files whose writer has just closed them, or that were moved here."""
        try:
            folder = os.stat(self._jobs)
            candidates = dict(self._candidates())
        except OSError:
            return Look(available=False)
        identity = (folder.st_dev, folder.st_ino)
        replaced, self._identity = self._identity not in (None, identity), identity
        settled: list[Path] = []
        refused: dict[Path, str] = {}
        waiting = False
        for path, (mark, reason) in candidates.items():
            seen = self._note(path, mark)
            if seen.taken:
                continue
            if reason:
                refused[path] = reason
            elif self._is_settled(seen, str(path) in closed):
                settled.append(path)
            else:
                waiting = True
                continue
            seen.taken = True
        self._forget(candidates)
        return Look(
            replaced=replaced,
            present=frozenset(candidates),
            settled=tuple(settled),
            refused=refused,
            waiting=waiting,
        )

    def mark(self, path: Path) -> Mark | None:
        """The file's mark at the last look."""
        seen = self._seen.get(path)
        return seen.mark if seen else None

    def is_old(self, path: Path) -> bool:
        """Whether the file has lain unchanged for a while. A clock that was set back makes it young."""
        seen = self._seen.get(path)
        return seen is not None and self._wall() - seen.mark.ctime_ns / 1e9 > OLD_SECONDS

    def _note(self, path: Path, mark: Mark) -> _Seen:
        seen = self._seen.get(path)
        if seen is None or seen.mark != mark:
            seen = self._seen[path] = _Seen(mark, self._clock())
        return seen

    def _is_settled(self, seen: _Seen, closed: bool) -> bool:
        age = self._wall() - seen.mark.ctime_ns / 1e9
        return closed or age > OLD_SECONDS or self._clock() - seen.since >= SETTLE_SECONDS

    def _forget(self, candidates: Collection[Path]) -> None:
        if len(self._seen) > len(candidates):
            for path in self._seen.keys() - candidates:
                del self._seen[path]

    def _candidates(self) -> Iterator[tuple[Path, tuple[Mark, str]]]:
        """Every path that has the name of a job file; with the reason why it is none, where it is none."""
        with os.scandir(self._jobs) as entries:
            found = [entry for entry in entries if not is_ignored(entry.name)]
        folders: set[str] = set()
        paths: dict[str, Path] = {}
        for entry in found:
            if entry.name.endswith(ENDINGS) and not entry.is_dir():
                path = paths[entry.name] = self._paths.get(entry.name) or Path(entry.path)
                yield from self._candidate(path, entry.is_symlink())
            elif entry.is_dir():
                folders.add(entry.name)
                for path, linked in self._job_files(entry):
                    yield from self._candidate(path, linked)
        for name in self._folders.keys() - folders:
            del self._folders[name]
        self._paths = paths

    def _job_files(self, entry: os.DirEntry[str]) -> list[tuple[Path, bool]]:
        """The job files in a folder, and whether a link leads there. It is listed again only when its own mark has
        changed: that is when entries come or go. (A change in the same tick of the file system's clock as the listing
        would go unseen, so a young listing is made anew.)"""
        try:
            mark = _mark(entry.stat())
            known = self._folders.get(entry.name)
            if known and known[0] == mark and mark.mtime_ns < known[1] - 1_000_000_000:
                return known[2]
            listed_at = int(self._wall() * 1e9)
            with os.scandir(entry.path) as inside:
                found = [item for item in inside if item.name in _NAMES]
        except OSError:
            return []
        files = sorted((Path(item.path), entry.is_symlink() or item.is_symlink()) for item in found)
        self._folders[entry.name] = (mark, listed_at, files)
        return files

    def _candidate(self, path: Path, linked: bool) -> Iterator[tuple[Path, tuple[Mark, str]]]:
        try:
            found = os.stat(path)
        except OSError:
            return
        yield path, (_mark(found), self._refusal(path, found, linked))

    def _refusal(self, path: Path, found: os.stat_result, linked: bool) -> str:
        if not stat.S_ISREG(found.st_mode):
            return "not a regular file"
        if found.st_size > MAX_BYTES:
            return f"larger than {MAX_BYTES // 1024} KiB; a job is a short text, put data in files"
        if linked and not path.resolve().is_relative_to(self._home):
            return "a link that leads out of the folder that holds jobs/; copy the file"
        return ""


_NAMES = frozenset(f"job{ending}" for ending in ENDINGS)


def _mark(found: os.stat_result) -> Mark:
    return Mark(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
