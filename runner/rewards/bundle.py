"""A reward version: the job's `rewards:` section and the sources it runs, under one hash.

A version is a folder `<run>/rewards/<sha256>/` with the sources as they were and `bundle.json`. Workers run from there
and never from the user's folder, so an edit can't reach a batch that is being scored.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from runner.rewards.source import (
    ColumnRead,
    SourceError,
    check_function,
    collect,
    columns_of,
    is_async,
    module_name,
    parse,
    runs_text,
)
from runner.spec.errors import Finding, JobError
from runner.spec.model import Reward

OnError = Literal["mask", "zero", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One reward function of a version."""

    name: str
    """Its name in the job, in metrics and in graphs."""
    file: str
    """Relative to the bundle, with `/`."""
    attribute: str
    weight: float
    trusted: bool
    timeout: float
    """Seconds one call may take."""
    on_error: OnError
    isolation: Literal["worker", "call"] = "worker"
    """What calls share: the worker's process, or nothing."""
    is_async: bool = False
    """An `async def` of that file."""
    concurrency: int | None = None
    """Calls at the same time; None: one a worker, or 64 of an `async def`."""
    rpm: float | None = None
    tpm: float | None = None
    retries: int = 0
    backoff: float = 0.0
    """Seconds before the first retry; doubled for each further one."""
    max_calls: int | None = None
    max_tokens: int | None = None
    """Of one run, over all its attempts."""
    cache: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """One reward version."""

    sha256: str
    """Over the functions as canonical JSON, and every source's relative path and bytes."""
    sources: Mapping[str, bytes]
    """The files named in `fn:` and the modules of the job's folder they import, by relative path."""
    functions: Sequence[Function]
    """In the job's order."""


def build(rewards: Mapping[str, Reward], folder: Path) -> Bundle:
    """The version that the job's `rewards:` and the files in its folder make now. Runs none of the code.

    Raises JobError with every finding: a file that is missing or no Python, a function that isn't there or can't be
    called with (prompt, completion, example).
    """
    functions = tuple(_function(name, reward) for name, reward in rewards.items())
    sources: dict[str, bytes] = {}
    trees: dict[str, list[ast.Module]] = {}
    findings: list[Finding] = []
    for path in dict.fromkeys(function.file for function in functions):
        try:
            own = collect(folder, [path])
        except SourceError as error:
            findings.append(error.finding)
            continue
        sources |= own
        trees[path] = [parse(name, source, folder) for name, source in own.items()]
        tree = trees[path][0]
        names = dict.fromkeys(function.attribute for function in functions if function.file == path)
        findings += [found for name in names if (found := check_function(tree, name, path, folder))]
    if findings:
        raise JobError(list(dict.fromkeys(findings)))
    return _bundle(tuple(_seen(function, trees[function.file], rewards) for function in functions), sources)


def write(bundle: Bundle, folder: Path) -> Path:
    """Writes the version as `<folder>/<sha256>/` unless it is there already, and returns that path."""
    target = folder / bundle.sha256
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder, prefix=".building-"))
    for path, source in bundle.sources.items():
        (building / path).parent.mkdir(parents=True, exist_ok=True)
        (building / path).write_bytes(source)
    content = {
        "sha256": bundle.sha256,
        "functions": [{**asdict(function), "module": module_name(function.file)} for function in bundle.functions],
        "sources": sorted(bundle.sources),
    }
    (building / "bundle.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    building.chmod(0o755)
    try:
        os.rename(building, target)
    except OSError:
        shutil.rmtree(building)
        if not target.exists():
            raise
    return target


def read(folder: Path) -> Bundle:
    """The version in its folder `<sha256>/`. Raises ValueError when its files are not the ones that were hashed."""
    content = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    functions = tuple(
        Function(**{key: value for key, value in entry.items() if key != "module"}) for entry in content["functions"]
    )
    bundle = _bundle(functions, {path: (folder / path).read_bytes() for path in content["sources"]})
    if bundle.sha256 != content["sha256"]:
        raise ValueError(f"{folder}: its files have changed since it was written; publish the rewards again")
    return bundle


def with_function(base: Bundle, folder: Path, name: str, source: str, attribute: str, weight: float | None) -> Bundle:
    """The version with the reward `name` (new, or as it was but for the code) defined by a source of its own.

    `folder`: the base version's. A `weight` of None leaves it as it is.
    """
    file = f"update_{hashlib.sha256(source.encode()).hexdigest()[:12]}.py"
    known = next((function for function in base.functions if function.name == name), None)
    function = known or _function(name, Reward(fn=f"{file}:{attribute}"))
    function = replace(function, file=file, attribute=attribute, weight=function.weight if weight is None else weight)
    others = {other.name: other for other in base.functions}
    functions = tuple((others | {name: function}).values())
    kept = dict.fromkeys(other.file for other in functions if other.file != file)
    return _bundle(functions, {**collect(folder, list(kept)), file: source.encode()})


def columns_read(bundle: Bundle) -> list[ColumnRead]:
    """The dataset columns that the reward functions read by a literal name."""
    found: list[ColumnRead] = []
    for function in bundle.functions:
        tree = parse(function.file, bundle.sources[function.file])
        found += columns_of(tree, function.attribute, function.file)
    return list(dict.fromkeys(found))


def _function(name: str, reward: Reward) -> Function:
    path, _, attribute = reward.fn.rpartition(":")
    return Function(
        name=name,
        file=path.removeprefix("./"),
        attribute=attribute,
        weight=reward.weight,
        trusted=reward.trusted,
        timeout=reward.timeout,
        on_error=reward.on_error,
        concurrency=reward.concurrency,
        rpm=reward.rate_limit.rpm if reward.rate_limit else None,
        tpm=reward.rate_limit.tpm if reward.rate_limit else None,
        retries=reward.retries.max if reward.retries else 0,
        backoff=reward.retries.backoff if reward.retries else 0.0,
        max_calls=reward.budget.calls if reward.budget else None,
        max_tokens=reward.budget.tokens if reward.budget else None,
        cache=reward.cache,
    )


def _seen(function: Function, trees: Sequence[ast.Module], rewards: Mapping[str, Reward]) -> Function:
    """The function with what its sources (its own file first) show of it."""
    asked = rewards[function.name].isolation
    hostile = any(runs_text(tree) for tree in trees)
    isolation = ("call" if hostile else "worker") if asked == "auto" else asked
    return replace(function, isolation=isolation, is_async=is_async(trees[0], function.attribute))


def _bundle(functions: Sequence[Function], sources: Mapping[str, bytes]) -> Bundle:
    files = [[path, hashlib.sha256(source).hexdigest()] for path, source in sorted(sources.items())]
    canonical = json.dumps([[asdict(function) for function in functions], files], sort_keys=True)
    sha256 = hashlib.sha256(canonical.encode()).hexdigest()
    return Bundle(sha256=sha256, sources=dict(sorted(sources.items())), functions=functions)
