"""Rewards tried before training, on completions that are there. `runner.rescoring` scores recorded ones again.

Nothing is submitted and nothing recorded. Functions run as in training: from a bundle, in isolated workers.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from runner.api import open_run
from runner.data.examples import Example
from runner.data.load import load_examples
from runner.data.read import read
from runner.grpo.inputs import absolute_paths
from runner.grpo.types import Completion
from runner.queue.home import Home, find_home
from runner.queue.jobs import find_job, load_job
from runner.rewards import bundle
from runner.rewards.contract import GroupCall, Score
from runner.rewards.figures import FunctionFigures, function_figures
from runner.rewards.host import RewardHost
from runner.rewards.inprocess import score_here
from runner.rewards.sandbox import Settings, settings_of
from runner.rewards.source import reward_functions
from runner.spec.errors import Finding, JobError
from runner.spec.model import JobSpec, Reward
from runner.spec.resolve import for_backend
from runner.store import queries
from runner.store.rows import CompletionRow
from runner.store.store import Store

ALL = -1
TRIED_TWICE = 2

Origin = Literal["recorded", "file", "dataset", "emulated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Reward functions on some groups of completions."""

    version: str
    origin: Origin
    """Where the completions came from."""
    groups: Sequence[GroupCall]
    scores: Sequence[Sequence[Score]]
    """[n completions, group-major][F]"""
    figures: Sequence[FunctionFigures]

    @property
    def failed(self) -> int:
        """Calls that failed."""
        return sum(figures.failed for figures in self.figures)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The functions to try, and where their files lie."""

    bundle: bundle.Bundle
    folder: Path
    job: JobSpec | None
    """None for a bare reward file."""

    @property
    def seed(self) -> int:
        return self.job.seed if self.job else 0


# ---------------------------------------------------------------------------------------------------- trying


def try_rewards(
    target: str | Path,
    *,
    completions: Path | None = None,
    run: str | None = None,
    rows: int = 16,
    n: int = 4,
    overrides: Sequence[str] = (),
    home: str | Path | None = None,
    debug: bool = False,
) -> Trial:
    """Calls every reward function of a job, or of a `file.py[:function]`, twice on each of some completions.

    The completions: recorded ones of `run`, else of the file `completions`, else of the dataset's own column
    `completion` or `completions`, else `n` for each of `rows` prompts drawn by the emulator from its own model.
    `debug` calls in this process, once, without deadline or isolation, so that breakpoints work.
    Raises JobError, StoreError.
    """
    subject = subject_of(target, overrides, home)
    origin, groups = _groups(subject, completions, run, rows, n, home)
    if debug:
        scores, again = score_here(subject.bundle, subject.folder, groups), []
    else:
        with host_of(subject) as host:
            scores, again = (host.score(groups, step=0, split="train") for _ in range(TRIED_TWICE))
    sizes = [len(group.completions) for group in groups]
    figures = [
        function_figures(
            [row[f] for row in scores],
            [row[f] for row in again] or None,
            sizes,
            weight=function.weight,
            columns=list(dict.fromkeys(item.column for item in bundle.columns_of_function(subject.bundle, function))),
        )
        for f, function in enumerate(subject.bundle.functions)
    ]
    return Trial(version=subject.bundle.sha256, origin=origin, groups=groups, scores=scores, figures=figures)


def subject_of(target: str | Path, overrides: Sequence[str], home: str | Path | None) -> Subject:
    file, _, name = str(target).partition(".py:")
    if name or str(target).endswith(".py"):
        return _file_subject(Path(file if not name else f"{file}.py"), name)
    loaded = load_job(find_job(target, Home(Path(home).resolve()) if home else find_home()), overrides)
    try:
        made = bundle.locked(bundle.build(loaded.job.rewards, loaded.folder, loaded.job.packages))
    except JobError as error:
        raise JobError(loaded.locate(error.findings)) from None
    return Subject(bundle=made, folder=loaded.folder, job=loaded.job)


def _file_subject(path: Path, name: str) -> Subject:
    names = [name] if name else reward_functions(path)
    rewards = {found: Reward(fn=f"{path.name}:{found}") for found in names}
    return Subject(bundle=bundle.build(rewards, path.parent), folder=path.parent.resolve(), job=None)


@contextmanager
def host_of(subject: Subject) -> Generator[RewardHost]:
    """Budgets and caches of runs are left alone."""
    job = subject.job
    settings = settings_of(job, subject.folder) if job else Settings(job_folder=subject.folder)
    with tempfile.TemporaryDirectory(prefix="preview-") as folder:
        version = bundle.write(subject.bundle, Path(folder))
        steps = job.grpo.steps if job else None
        with RewardHost(version, seed=subject.seed, steps=steps, settings=settings) as host:
            yield host


def _groups(
    subject: Subject, completions: Path | None, run: str | None, rows: int, n: int, home: str | Path | None
) -> tuple[Origin, list[GroupCall]]:
    if run is not None:
        handle = open_run(run, home=home)
        with handle.reading() as store:
            found = queries.completions(store, handle.id, limit=rows * n)
            return "recorded", recorded(store, handle.id, found, {})
    if completions is not None and subject.job is None:
        return "file", _of_rows(_plain_rows(completions)[:rows])
    if subject.job is None:
        raise _without_completions()
    data = load_examples(subject.job, subject.folder)
    examples = sorted((*data.train, *data.eval), key=lambda example: example.id)[:rows]
    if completions is not None:
        return "file", _of_file(examples, _plain_rows(completions))
    if own := [group for example in examples if (group := _group(example, _texts(example.columns)))]:
        return "dataset", own
    return "emulated", _emulated(subject, subject.job, examples, n)


def _plain_rows(file: Path) -> list[Mapping[str, Any]]:
    return list(read(file.name, file.resolve().parent).rows)


def _texts(row: Mapping[str, Any]) -> list[str]:
    """A row's completions: of its column `completions`, else `completion`."""
    found: Any = row.get("completions", row.get("completion"))
    texts: list[Any] = found if isinstance(found, list) else [found]  # pyright: ignore[reportUnknownVariableType]
    return [text for text in texts if isinstance(text, str)]


def _group(example: Example, texts: Sequence[str]) -> GroupCall | None:
    """None where there are no texts. The prompt's messages stand in for the text a chat template makes of them."""
    if not texts:
        return None
    messages = None if isinstance(example.prompt, str) else example.prompt
    text = example.prompt if isinstance(example.prompt, str) else "\n".join(m["content"] for m in example.prompt)
    return GroupCall(prompt=text, example=example.columns, completions=texts, messages=messages)  # pyright: ignore[reportArgumentType]


def _of_rows(rows: Sequence[Mapping[str, Any]]) -> list[GroupCall]:
    """Rows of a bare file: every column but the completions is the example's."""
    groups: list[GroupCall] = []
    for row in rows:
        columns = {name: value for name, value in row.items() if name not in ("completion", "completions")}
        prompt: Any = columns.get("prompt", "")
        group = _group(Example(id=len(groups), prompt=prompt, columns=columns), _texts(row))
        groups += [group] if group else []
    return groups or _nothing("no row of the file has a column `completion` or `completions`")


def _of_file(examples: Sequence[Example], rows: Sequence[Mapping[str, Any]]) -> list[GroupCall]:
    """Completions of the file's rows for the examples they fit: by `prompt` where a row has one, else by columns."""
    groups: list[GroupCall] = []
    for example in examples:
        texts = [text for row in rows if _fits(row, example) for text in _texts(row)]
        group = _group(example, texts)
        groups += [group] if group else []
    return groups or _nothing("no row of the file fits a row of the dataset, by `prompt` or by equal columns")


def _fits(row: Mapping[str, Any], example: Example) -> bool:
    if isinstance(row.get("prompt"), str):
        return row["prompt"] == example.prompt
    columns = {name: value for name, value in row.items() if name not in ("completion", "completions")}
    return all(name in example.columns and example.columns[name] == value for name, value in columns.items())


def _nothing(message: str) -> list[GroupCall]:
    hint = 'a row is {"prompt": …, "completions": ["…"]}, or has the dataset\'s columns in place of `prompt`'
    raise JobError([Finding(code="no-completions", message=message, hint=hint)])


def _without_completions() -> JobError:
    hint = 'give --completions FILE with rows as {"prompt": "…", "completions": ["…"], "answer": 42}, or a job'
    return JobError([Finding(code="no-completions", message="a bare reward file has no completions", hint=hint)])


def _emulated(subject: Subject, job: JobSpec, examples: Sequence[Example], n: int) -> list[GroupCall]:
    from runner.backends import load_backend  # brings in the emulator, and torch for its language model

    small = absolute_paths(for_backend(job, "emulator")[0], subject.folder)
    if small.emulator.policy == "replay" and small.emulator.completions:
        return _of_file(examples, _plain_rows(Path(small.emulator.completions)))
    return groups_of(examples, load_backend("emulator").generate(small, None, examples, n))


def groups_of(examples: Sequence[Example], drawn: Sequence[Sequence[Completion]]) -> list[GroupCall]:
    """Completions that were drawn for the examples, as reward functions get them."""
    made = [_group(example, [item.text for item in items]) for example, items in zip(examples, drawn, strict=True)]
    return [
        replace(
            group,
            finish=[item.finish for item in items],
            tokens=[item.ids or item.n_tokens for item in items],
        )
        for group, items in zip(made, drawn, strict=True)
        if group
    ]


def recorded(
    store: Store,
    run_id: str,
    rows: Sequence[CompletionRow],
    messages: Mapping[int, Sequence[Mapping[str, str]]],
) -> list[GroupCall]:
    """Groups as they were scored, in their order. (A group at the end may be cut by a limit.)"""
    groups: dict[tuple[str, int, int], list[CompletionRow]] = {}
    for row in rows:
        groups.setdefault((row.split, row.step, row.group_id), []).append(row)
    made: list[GroupCall] = []
    for members in groups.values():
        prompt, columns = queries.example(store, run_id, members[0].example_id) or ("", "{}")
        made.append(
            GroupCall(
                prompt=prompt,
                example=json.loads(columns),
                completions=[row.completion for row in members],
                finish=[row.finish_reason for row in members],
                tokens=[row.n_tokens for row in members],
                messages=messages.get(members[0].example_id),
            )
        )
    return made or _nothing(f"{run_id} has recorded no completions")
