"""Reward calls in this very process, from the user's own files: breakpoints and `pdb` work, a hang hangs.

For looking into a function only: no isolation, no deadline, no version. Whatever scores a run goes through the host.
"""

from __future__ import annotations

import bdb
import copy
import importlib
import inspect
import json
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner.rewards.bundle import Bundle, Function
from runner.rewards.contract import GroupCall, Outcome, Score
from runner.rewards.source import module_name
from runner.rewards.worker import Ctx, call, seed_generators


def score_here(bundle: Bundle, folder: Path, groups: Sequence[GroupCall]) -> list[list[Score]]:
    """As `RewardHost.score`: [n completions, group-major][F]. Raises what the import raises, and `bdb.BdbQuit`."""
    with _importable(bundle, folder):
        functions = [_loaded(function) for function in bundle.functions]
        return [
            [
                _score(function, loaded, group, number, index, f"{folder}/")
                for function, loaded in zip(bundle.functions, functions, strict=True)
            ]
            for number, group in enumerate(groups)
            for index in range(len(group.completions))
        ]


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


def _loaded(function: Function) -> Callable[..., Any]:
    return getattr(importlib.import_module(module_name(function.file)), function.attribute)


def _score(
    function: Function, loaded: Callable[..., Any], group: GroupCall, number: int, index: int, folder: str
) -> Score:
    example = json.loads(json.dumps(dict(group.example), default=str))
    keywords: dict[str, Any] = {}
    if "ctx" in inspect.signature(loaded).parameters:
        messages = [dict(message) for message in group.messages] if group.messages else None
        keywords["ctx"] = Ctx(0, "train", messages, group.finish[index] if group.finish else None)
    seed_generators(f"0/0/train/{number}/{index}/{function.name}")
    quits: list[bdb.BdbQuit] = []

    def watched(*arguments: Any, **named: Any) -> Any:
        try:
            return loaded(*arguments, **named)
        except bdb.BdbQuit as quit_:
            quits.append(quit_)
            raise

    began = time.perf_counter()
    arguments = (group.prompt, group.completions[index], copy.deepcopy(example))
    outcome, value, reason, error = call(watched, arguments, keywords, folder)
    if quits:
        raise quits[0]
    seconds = time.perf_counter() - began
    return Score(name=function.name, value=value, outcome=Outcome(outcome), reason=reason, error=error, seconds=seconds)
