"""Checkpoints that are whole or not there: a temporary folder, a manifest written last, one rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.journal.failpoints import failpoint

MANIFEST = "manifest.json"
RUN_STATE = "run_state.json"
WEIGHTS = ("model*.safetensors", "adapter_model*.safetensors", "policy.json")
"""Files whose bytes are the policy; a sha256 over them says whether two runs ended with equal weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    step: int
    path: Path
    bytes: int
    weights: str
    """sha256 over the weight files."""


def folder_name(step: int) -> str:
    return f"step-{step:06d}"


def find(folder: Path) -> list[Checkpoint]:
    """Complete checkpoints under `folder`, oldest first. What has no manifest or misses a file does not count."""
    found = [_read(path) for path in sorted(folder.glob("step-*"))]
    return [checkpoint for checkpoint in found if checkpoint is not None]


def last_step(folder: Path) -> int:
    """Step of the last complete checkpoint under `folder`; 0 when there is none."""
    found = find(folder)
    return found[-1].step if found else 0


def _read(path: Path) -> Checkpoint | None:
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    if any(_size(path / name) != size for name, size in manifest["files"].items()):
        return None
    return Checkpoint(step=manifest["step"], path=path, bytes=manifest["bytes"], weights=manifest["weights"])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def describe(folder: Path, step: int) -> Checkpoint:
    """What a folder holds, before it has its manifest."""
    return Checkpoint(step=step, path=folder, bytes=sum(_files(folder).values()), weights=weights_hash(folder))


def seal(folder: Path, checkpoint: Checkpoint, target: Path) -> None:
    """Makes `folder` the checkpoint `target`: everything on the disk first, then the manifest, then the name."""
    for name in _files(folder):
        _fsync(folder / name)
    failpoint("checkpoint.files")
    manifest = {
        "step": checkpoint.step,
        "bytes": checkpoint.bytes,
        "weights": checkpoint.weights,
        "files": _files(folder),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    _fsync(folder / MANIFEST)
    failpoint("checkpoint.manifest")
    if target.exists():
        shutil.rmtree(target)
    folder.rename(target)
    _fsync(target.parent)
    failpoint("checkpoint.named")


def mark_best(folder: Path, step: int | None) -> None:
    """Makes `best` under `folder` lead to that step's checkpoint (`RunFolder.best` reads it)."""
    if step is None:
        return
    part = folder / ".best.part"
    part.unlink(missing_ok=True)
    part.symlink_to(folder_name(step))
    part.replace(folder / "best")


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    (folder / RUN_STATE).write_text(json.dumps(state))


def read_state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / RUN_STATE).read_text())
    return state


def surplus(checkpoints: Sequence[Checkpoint], keep: int) -> Sequence[Checkpoint]:
    """The ones to remove when the last `keep` stay."""
    return checkpoints[:-keep]


def weights_hash(folder: Path) -> str:
    """sha256 over name and bytes of the weight files, wherever they lie in the folder."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in WEIGHTS for path in folder.rglob(pattern)}):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _files(folder: Path) -> dict[str, int]:
    """Relative path → bytes of every file but the manifest."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST)
    return {str(path.relative_to(folder)): path.stat().st_size for path in paths}


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
