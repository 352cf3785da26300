"""Reward calls in this very process, from the user's own files: breakpoints and `pdb` work, a hang hangs.

For looking into a function only: no isolation, no deadline, no version. Whatever scores a run goes through the host.
"""

from __future__ import annotations

import bdb
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner.rewards.answering import call, prepare, received
from runner.rewards.bundle import Bundle, Function
from runner.rewards.cache import Cache
from runner.rewards.calls import Batch, Call, Place
from runner.rewards.contract import GroupCall, Score
from runner.rewards.frames import Answer
from runner.rewards.meter import Meters
from runner.rewards.source import module_name
from runner.rewards.teams import Team, teams_of
from runner.rewards.zygote import FunctionSpec, Loaded

HERE = Place(step=0, split="train", progress=0.0)


def score_here(bundle: Bundle, folder: Path, groups: Sequence[GroupCall]) -> list[list[Score]]:
    """As `RewardHost.score`: [n completions, group-major][F]. Raises what the import raises, and `bdb.BdbQuit`."""
    functions = bundle.functions
    pace, teams, meters = [0.0] * len(functions), teams_of(functions, 1), Meters(functions, None).of
    batch = Batch(groups, functions, teams, meters, Cache(bundle.sha256, None), place=HERE, patience=1)
    with _importable(bundle, folder):
        loaded = Loaded(f"{folder}/", [_spec(function) for function in functions])
        while not batch.is_done:
            batch.wake(time.monotonic())
            taken = [(team, batch.take(team, pace, time.monotonic(), prefetch=False)) for team in teams]
            for team, calls in taken:
                _make(batch, team, calls, loaded)
            if not any(calls for _, calls in taken):
                time.sleep(max(0.0, min(batch.next_start(time.monotonic()), 1.0)))
    return batch.scores()


@contextmanager
def _importable(bundle: Bundle, folder: Path) -> Generator[None]:
    """The user's folder first on the path; what only the bundle has (generated sources) from a temporary one."""
    with tempfile.TemporaryDirectory(prefix="generated-") as generated:
        for path, source in bundle.sources.items():
            if not (folder / path).is_file():
                (Path(generated) / path).write_bytes(source)
        before = list(sys.path)
        sys.path[:0] = [str(folder), generated]
        try:
            yield
        finally:
            sys.path[:] = before
            for path in bundle.sources:
                sys.modules.pop(module_name(path), None)


def _spec(function: Function) -> FunctionSpec:
    return FunctionSpec(
        name=function.name, module=function.module, attribute=function.attribute, timeout=function.timeout
    )


def _make(batch: Batch, team: Team, calls: Sequence[Call], loaded: Loaded) -> None:
    """Makes the calls of one message, as a worker reads it."""
    if not calls:
        return
    request = received(batch.message(calls, team.mode)[4:])
    for item, (_, index, position) in zip(calls, request["calls"], strict=True):
        batch.record(item, _answer(item, request, index, position, loaded), time.monotonic())


def _answer(item: Call, request: dict[str, Any], index: int, position: int, loaded: Loaded) -> Answer:
    prepared = prepare(loaded, request, index, position, "0")
    quits: list[bdb.BdbQuit] = []

    def watched(*arguments: Any, **named: Any) -> Any:
        try:
            return prepared.function(*arguments, **named)
        except bdb.BdbQuit as error:
            quits.append(error)
            raise

    began = time.perf_counter()
    said = call(prepared._replace(function=watched), loaded.folder)
    if quits:
        raise quits[0]
    seconds = time.perf_counter() - began
    metrics, tokens = prepared.extras()
    return Answer(item.number, *said, None, seconds, metrics, tokens)  # pyright: ignore[reportArgumentType]
