"""Reward calls in this very process, from the user's own files: breakpoints and `pdb` work, a hang hangs.

For looking into a function only: no isolation, no deadline, no version. Whatever scores a run goes through the host.
"""

from __future__ import annotations

import bdb
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner.rewards.bundle import Bundle, Function
from runner.rewards.calls import Batch, Call
from runner.rewards.contract import GroupCall, Score
from runner.rewards.frames import Answer
from runner.rewards.source import module_name
from runner.rewards.worker import Ctx, call, seed_generators
from runner.rewards.zygote import takes_ctx

Loaded = Callable[..., Any]


def score_here(bundle: Bundle, folder: Path, groups: Sequence[GroupCall]) -> list[list[Score]]:
    """As `RewardHost.score`: [n completions, group-major][F]. Raises what the import raises, and `bdb.BdbQuit`."""
    pace = [0.0] * len(bundle.functions)
    batch = Batch(groups, bundle.functions, step=0, split="train", give_up=1)
    with _importable(bundle, folder):
        loaded = [_loaded(function) for function in bundle.functions]
        while not batch.is_done:
            for item in batch.take(pace, prefetch=False):
                batch.record(item, _answer(item, bundle, loaded[item.function], groups, f"{folder}/"))
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


def _loaded(function: Function) -> Loaded:
    return getattr(importlib.import_module(function.module), function.attribute)


def _ctx(group: GroupCall, item: Call) -> Ctx:
    messages = [dict(message) for message in group.messages] if group.messages else None
    tokens = group.tokens or [None] * len(group.completions)
    ctx = Ctx(0, "train", messages, group.finish[item.index] if group.finish else None)
    given = tokens[item.index]
    ctx.tokens = given if given is None or isinstance(given, int) else list(given)
    members = [[text, ids] for text, ids in zip(group.completions, tokens, strict=True)]
    ctx.group = {"number": item.group, "index": item.index, "completions": members}
    return ctx


def _answer(item: Call, bundle: Bundle, loaded: Loaded, groups: Sequence[GroupCall], folder: str) -> Answer:
    group = groups[item.group]
    example = json.loads(json.dumps(dict(group.example), default=str))
    keywords: dict[str, Any] = {}
    if takes_ctx(loaded):
        keywords["ctx"] = _ctx(group, item)
    seed_generators(f"0/0/train/{item.group}/{item.index}/{bundle.functions[item.function].name}")
    quits: list[bdb.BdbQuit] = []

    def watched(*arguments: Any, **named: Any) -> Any:
        try:
            return loaded(*arguments, **named)
        except bdb.BdbQuit as error:
            quits.append(error)
            raise

    began = time.perf_counter()
    said = call(watched, (group.prompt, group.completions[item.index], example), keywords, folder)
    if quits:
        raise quits[0]
    return Answer(item.number, *said, None, time.perf_counter() - began)  # pyright: ignore[reportArgumentType]
