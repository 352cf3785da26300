"""Stored completions scored again, under reward files as they are now or as somebody is about to make them.

Nothing is recorded. Functions run as in training: from a bundle, in isolated workers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.api import RunHandle, open_run
from runner.data.load import load_examples
from runner.grpo.inputs import read_inputs
from runner.journal.events import Split
from runner.journal.folder import read_json
from runner.preview import ALL, Subject, host_of, recorded, subject_of
from runner.rewards import bundle
from runner.rewards.contract import Score
from runner.rewards.figures import Change, Failure, change, function_figures
from runner.rewards.versions import Shelf
from runner.spec.errors import Finding, JobError
from runner.store import queries
from runner.store.rows import CompletionRow


@dataclass(frozen=True, slots=True)
class Total:
    """One stored completion's reward before and after; None where it has left its group."""

    rollout_id: int
    step: int
    completion: str
    before: float | None
    after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescored:
    """A run's stored completions under the reward files as they are now."""

    run: str
    versions: Sequence[str]
    """That scored them in the run."""
    version: str
    """Of the files now."""
    steps: Sequence[int]
    completions: int
    changes: Sequence[Change]
    """Of every function that is in both, and of the `reward`: first all of it, then each function."""
    added: Sequence[str]
    removed: Sequence[str]
    failed: Mapping[str, int]
    """Calls of each function that fail now."""
    failures: Sequence[Failure]
    totals: Sequence[Total]
    """Of every completion, in the order of steps."""

    @property
    def is_failed(self) -> bool:
        return any(self.failed.values())


def rescore(
    run: str,
    *,
    steps: tuple[int, int] | None = None,
    split: Split = "train",
    job: str | Path | None = None,
    home: str | Path | None = None,
) -> Rescored:
    """Every stored completion of a run (of the steps from `steps[0]` to `steps[1]`) under the run's job's reward files
    as they are now, or under those of another `job`, compared with the scores in store. Raises JobError, StoreError."""
    handle = open_run(run, home=home)
    spec = read_json(handle.home.run(handle.id).spec_json) or {}
    subject = subject_of(job or spec["job_file"], () if job else spec["overrides"], home)
    return _rescore(handle, subject, steps, split, lambda done, total: None)


def rescore_edited(
    run: str,
    base: str,
    edited: Mapping[str, str],
    *,
    steps: tuple[int, int] | None = None,
    split: Split = "train",
    home: str | Path | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Rescored:
    """As `rescore`, under the run's reward version `base` with some of its files edited. `tell` hears after each step
    how many of how many are done. Raises JobError, StoreError, RewardLoadError."""
    handle = open_run(run, home=home)
    folder = handle.home.run(handle.id)
    inputs = read_inputs(folder)
    made = bundle.with_sources(Shelf(folder.rewards).bundle(base), edited)
    return _rescore(handle, Subject(bundle=made, folder=inputs.data_folder, job=inputs.job), steps, split, tell)


def _rescore(
    handle: RunHandle,
    subject: Subject,
    steps: tuple[int, int] | None,
    split: Split,
    tell: Callable[[int, int], None],
) -> Rescored:
    batches: list[_Batch] = []
    with handle.reading() as store, host_of(subject) as host:
        wanted = [step for step in queries.steps(store, handle.id, split) if _is_within(step, steps)]
        messages = messages_of(subject)
        for step in wanted:
            rows = queries.completions(store, handle.id, step=step, split=split, limit=ALL)
            groups = recorded(store, handle.id, rows, messages)
            batches.append(
                _Batch(rows, [len(group.completions) for group in groups], host.score(groups, step=step, split=split))
            )
            tell(len(batches), len(wanted))
    if not batches:
        raise JobError([Finding(code="no-completions", message=f"{handle.id} has no completions of such steps")])
    return _rescored(handle, subject, batches, wanted)


@dataclass(frozen=True, slots=True)
class _Batch:
    rows: Sequence[CompletionRow]
    sizes: Sequence[int]
    scores: Sequence[Sequence[Score]]


def _is_within(step: int, steps: tuple[int, int] | None) -> bool:
    return steps is None or steps[0] <= step <= steps[1]


def _rescored(handle: RunHandle, subject: Subject, batches: Sequence[_Batch], steps: Sequence[int]) -> Rescored:
    rows = [row for batch in batches for row in batch.rows]
    scores = [row for batch in batches for row in batch.scores]
    sizes = [size for batch in batches for size in batch.sizes]
    functions = subject.bundle.functions
    before = dict.fromkeys(name for row in rows for name in row.scores)
    common = [(i, function.name) for i, function in enumerate(functions) if function.name in before]
    rewards = rewards_of(scores, subject)
    figures = [
        function_figures([row[i] for row in scores], None, sizes, weight=f.weight, columns=())
        for i, f in enumerate(functions)
    ]
    return Rescored(
        run=handle.id,
        versions=list(dict.fromkeys(row.reward_version for row in rows)),
        version=subject.bundle.sha256,
        steps=steps,
        completions=len(rows),
        changes=[
            change("reward", _grouped([row.reward for row in rows], sizes), _grouped(rewards, sizes)),
            *(
                change(
                    name,
                    _grouped([row.scores[name].value if name in row.scores else None for row in rows], sizes),
                    _grouped([row[i].value for row in scores], sizes),
                )
                for i, name in common
            ),
        ],
        added=[function.name for function in functions if function.name not in before],
        removed=[name for name in before if name not in {function.name for function in functions}],
        failed={item.name: item.failed for item in figures},
        failures=[failure for item in figures for failure in item.failures],
        totals=[
            Total(row.id, row.step, row.completion, row.reward, after) for row, after in zip(rows, rewards, strict=True)
        ],
    )


def _grouped(values: Sequence[float | None], sizes: Sequence[int]) -> list[Sequence[float | None]]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [values[start : start + size] for start, size in zip(starts, sizes, strict=True)]


def rewards_of(scores: Sequence[Sequence[Score]], subject: Subject) -> list[float | None]:
    """Weighted sums, as the run makes them."""
    from runner.grpo.advantages import weighted_rewards
    from runner.grpo.run import optimised_values

    functions = subject.bundle.functions
    optimised = [i for i, function in enumerate(functions) if function.weight != 0]
    values = [optimised_values(row, optimised, functions) for row in scores]
    return weighted_rewards(values, [functions[i].weight for i in optimised])


def messages_of(subject: Subject) -> Mapping[int, Sequence[Mapping[str, str]]]:
    """Chat turns by example id; none where the dataset is not there any more."""
    if subject.job is None:
        return {}
    try:
        data = load_examples(subject.job, subject.folder)
    except JobError:
        return {}
    return {e.id: e.prompt for e in (*data.train, *data.eval) if not isinstance(e.prompt, str)}  # pyright: ignore[reportReturnType]
