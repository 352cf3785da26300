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
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from runner.rewards import environment, graders, styles
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
from runner.rewards.styles import Batch, Style
from runner.spec.errors import Finding, JobError
from runner.spec.grader import columns_in
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
    clip: Sequence[float] | None = None
    """Least and greatest value."""
    only_if: str | None = None
    """Condition over other functions' values under which it is called (`runner.spec.gate`)."""
    style: Style = "runner"
    batch: Batch = "one"
    """`group`: called once for each group; its completions share the call's fate."""
    adapter: str = ""
    """The generated file through which it is called; empty: it is called as it stands."""

    @property
    def module(self) -> str:
        """What workers import."""
        return module_name(self.adapter or self.file)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """One reward version."""

    sha256: str
    """Over the functions as canonical JSON, every source's relative path and bytes, and the locked environment."""
    sources: Mapping[str, bytes]
    """The files named in `fn:` and the modules of the job's folder they import, by relative path."""
    functions: Sequence[Function]
    """In the job's order."""
    packages: Sequence[str] | None = None
    """What the job asks for; None: the environment is the runner's own."""
    locked: Sequence[str] | None = None
    """`name==version` of everything in the environment; None before it is built (`locked`), or where it is ours."""


def build(rewards: Mapping[str, Reward], folder: Path, packages: Sequence[str] | None = None) -> Bundle:
    """The version that the job's `rewards:`, its `packages:` and the files in its folder make now. Runs none of the
    code and installs nothing: see `locked`.

    Raises JobError with every finding: a file that is missing or no Python, a function that isn't there or can't be
    called with (prompt, completion, example).
    """
    functions = tuple(_function(name, reward) for name, reward in rewards.items())
    sources: dict[str, bytes] = {}
    trees: dict[str, list[ast.Module]] = {}
    findings: list[Finding] = []
    given = {name: reward.grader for name, reward in rewards.items() if reward.grader is not None}
    for path in dict.fromkeys(function.file for function in functions if function.name not in given):
        try:
            own = collect(folder, [path])
        except SourceError as error:
            findings.append(error.finding)
            continue
        sources |= own
        trees[path] = [parse(name, source, folder) for name, source in own.items()]
        here = [function for function in functions if function.file == path]
        checked = [check_function(trees[path][0], item.attribute, path, folder, item.style) for item in here]
        findings += [found for found in checked if found is not None]
    for name, grader in given.items():
        written = graders.sources_of(name, grader)
        sources |= written
        trees[graders.file_of(name)] = [parse(path, text) for path, text in written.items() if path != graders.OURS]
    sources |= {path: source for function in functions for path, source in _stub(function).items()}
    if findings:
        raise JobError(list(dict.fromkeys(findings)))
    seen = tuple(_seen(function, trees[function.file], rewards) for function in functions)
    return _bundle(seen, sources, packages, None)


def locked(bundle: Bundle) -> Bundle:
    """The version with the environment that its packages give, which is built if it isn't there. Raises JobError."""
    if bundle.packages is None:
        return bundle
    return _bundle(bundle.functions, bundle.sources, bundle.packages, environment.ensure(bundle.packages).locked)


def interpreter(bundle: Bundle) -> str:
    """The Python that runs the version's workers; its environment is built if it isn't there. Raises JobError."""
    if bundle.packages is None:
        return sys.executable
    return environment.recall(bundle.packages, bundle.locked or ()).python


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
        "functions": [{**asdict(function), "module": function.module} for function in bundle.functions],
        "sources": sorted(bundle.sources),
        "packages": bundle.packages,
        "locked": bundle.locked,
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
    sources = {path: (folder / path).read_bytes() for path in content["sources"]}
    bundle = _bundle(functions, sources, content["packages"], content["locked"])
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
    waits = function.batch == "one" and is_async(parse(file, source.encode()), attribute)
    function = replace(function, adapter=_adapter(function), is_async=waits)
    others = {other.name: other for other in base.functions}
    functions = tuple((others | {name: function}).values())
    kept = dict.fromkeys(other.file for other in functions if other.file != file)
    sources = {**collect(folder, list(kept)), file: source.encode()}
    sources |= {path: text for other in functions for path, text in _stub(other).items()}
    return _bundle(functions, sources, base.packages, base.locked)


def with_sources(base: Bundle, edited: Mapping[str, str]) -> Bundle:
    """The version with other texts in some of its own files. Runs none of the code.

    Raises JobError for a file that the version has not or that is generated, for one that is no Python, and for a
    function that is gone or can't be called as before.
    """
    own = editable(base)
    if unknown := [path for path in edited if path not in own]:
        message = f"it has no file {', '.join(unknown)} that could be edited; it has {', '.join(own)}"
        raise JobError([Finding(code="no-source", message=f"reward version {base.sha256[:12]}: {message}")])
    sources = {**base.sources, **{path: text.encode() for path, text in edited.items()}}
    try:
        trees = {path: parse(path, text) for path, text in sources.items() if path.endswith(".py")}
    except SourceError as error:
        raise JobError([error.finding]) from None
    written = [function for function in base.functions if function.file in own]
    checked = [check_function(trees[f.file], f.attribute, f.file, Path(), f.style) for f in written]
    if findings := [finding for finding in checked if finding is not None]:
        raise JobError(list(dict.fromkeys(findings)))
    hostile = any(runs_text(trees[path]) for path in edited)
    functions = [_again(function, trees[function.file], hostile) for function in base.functions]
    return _bundle(functions, sources, base.packages, base.locked)


def editable(bundle: Bundle) -> list[str]:
    """Its files that somebody wrote; the others are generated from the job."""
    generated = {path for function in bundle.functions for path in _stub(function)} | {graders.OURS}
    return [path for path in bundle.sources if path not in generated and not path.startswith(graders.PREFIX)]


def _again(function: Function, tree: ast.Module, hostile: bool) -> Function:
    """The function with what its edited file shows of it."""
    if function.batch == "group":
        return function
    isolation = "call" if hostile else function.isolation
    return replace(function, isolation=isolation, is_async=is_async(tree, function.attribute))


def columns_read(bundle: Bundle) -> list[ColumnRead]:
    """The dataset columns that the reward functions read by a literal name."""
    return list(dict.fromkeys(read for function in bundle.functions for read in columns_of_function(bundle, function)))


def columns_of_function(bundle: Bundle, function: Function) -> list[ColumnRead]:
    """The dataset columns that one function reads by a literal name."""
    tree = parse(function.file, bundle.sources[function.file])
    if function.file.startswith(graders.PREFIX):
        written = next(node.value for node in tree.body if isinstance(node, ast.Assign))
        columns = columns_in(ast.literal_eval(written))
        return [ColumnRead(column, f"rewards.{function.name}.grader", 0, True) for column in columns]
    return columns_of(tree, function.attribute, function.file, function.style)


def _stub(function: Function) -> dict[str, bytes]:
    """The generated sources of a function of another style."""
    return {} if function.style == "runner" else _adapted(function)[1]


def _adapter(function: Function) -> str:
    return "" if function.style == "runner" else _adapted(function)[0]


def _adapted(function: Function) -> tuple[str, dict[str, bytes]]:
    own = module_name(function.file)
    return styles.stub(function.file, function.attribute, own, function.style, function.batch)


def _function(name: str, reward: Reward) -> Function:
    path, _, attribute = (reward.fn or f"{graders.file_of(name)}:{graders.ATTRIBUTE}").rpartition(":")
    file = path.removeprefix("./")
    function = Function(
        name=name,
        file=file,
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
        clip=reward.clip,
        only_if=reward.only_if,
        style=reward.style,
        batch=reward.batch,
    )
    return replace(function, adapter=_adapter(function))


def _seen(function: Function, trees: Sequence[ast.Module], rewards: Mapping[str, Reward]) -> Function:
    """The function with what its sources (its own file first) show of it."""
    if function.batch == "group":
        return function  # called by the first completion of a message, for all of them
    asked = rewards[function.name].isolation
    hostile = any(runs_text(tree) for tree in trees)
    isolation = ("call" if hostile else "worker") if asked == "auto" else asked
    return replace(function, isolation=isolation, is_async=is_async(trees[0], function.attribute))


def _bundle(
    functions: Sequence[Function],
    sources: Mapping[str, bytes],
    packages: Sequence[str] | None,
    locked: Sequence[str] | None,
) -> Bundle:
    files = [[path, hashlib.sha256(source).hexdigest()] for path, source in sorted(sources.items())]
    content = [[asdict(function) for function in functions], files, packages, locked]
    sha256 = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Bundle(
        sha256=sha256,
        sources=dict(sorted(sources.items())),
        functions=functions,
        packages=None if packages is None else list(packages),
        locked=None if locked is None else list(locked),
    )
