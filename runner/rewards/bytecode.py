"""Compiled Python for environments: a source file is compiled once, whatever environments it comes to be in.

Compiling is nearly all that a large package costs. The store is addressed by what the source says, so a package can't
bring bytecode for another's file, and by the interpreter. It is written here only, before any reward runs; rewards read
their environment and can write neither. Files are links to the store's, without a look at the source's time
(`unchecked-hash`), for an environment is never changed once it is there.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def add_bytecode(environment: Path, store: Path) -> None:
    """Puts compiled files beside all sources of the environment, which must be of this Python: from the store where it
    has them; the others are compiled and stored. What can't be compiled is left out."""
    room = store / f"{sys.implementation.cache_tag}-{importlib.util.MAGIC_NUMBER.hex()}"
    room.mkdir(parents=True, exist_ok=True)
    missing: dict[Path, Path] = {}
    for source in _sources(environment):
        kept = room / hashlib.sha256(source.read_bytes()).hexdigest()
        _compiled(source).unlink(missing_ok=True)  # what a package brings along may be of another source
        if not _link(kept, _compiled(source)):
            missing[source] = kept
    if missing:
        _compile(list(missing))
        for source, kept in missing.items():
            _link(_compiled(source), kept)


def _sources(environment: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(environment / "lib"):
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def _compiled(source: Path) -> Path:
    return Path(importlib.util.cache_from_source(str(source), optimization=""))


def _link(there: Path, here: Path) -> bool:
    """Whether there is such a file; it is `here` too then."""
    try:
        os.link(there, here)
    except FileExistsError:
        pass  # two sources that say the same
    except FileNotFoundError:
        if not there.exists():
            return False
        here.parent.mkdir(exist_ok=True)
        return _link(there, here)
    except OSError:  # a file system without links
        shutil.copyfile(there, here)
    return True


def _compile(sources: Sequence[Path]) -> None:
    """On all processors."""
    processors = os.cpu_count() or 1
    shares = [sources[i::processors] for i in range(processors)]
    with ThreadPoolExecutor(processors) as pool:
        list(pool.map(_compile_share, filter(None, shares)))


def _compile_share(sources: Sequence[Path]) -> None:
    """Without a line of the packages' own being run."""
    command = [sys.executable, "-I", "-S", "-m", "compileall", "-qq", "-i", "-"]
    command += ["--invalidation-mode", "unchecked-hash"]
    given = "\n".join(map(str, sources))
    subprocess.run(command, input=given, text=True, cwd="/", env={}, capture_output=True, check=False)
