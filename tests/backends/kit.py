"""Builders for tests of a backend through a real Run: a job, examples, rewards that are quick and pure."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.data.examples import Example
from runner.grpo.run import Run, Scorer, Switch
from runner.journal.events import BatchScored, Event, MetricsReported
from runner.journal.log import Journal, read
from runner.rewards.contract import GroupCall, Outcome, Score
from runner.spec.model import JobSpec


@dataclass(frozen=True)
class Function:
    name: str
    weight: float = 1.0
    on_error: str = "mask"


class PureScorer:
    """Scores by a checksum of the text, so that equal completions score equally in every process."""

    version = "v1"
    functions: Sequence[Function] = (Function("checksum"), Function("length", weight=-0.1))

    def score(self, groups: Sequence[GroupCall], *, step: int, split: str) -> list[list[Score]]:
        return [[_checksum(text), _length(text)] for group in groups for text in group.completions]


def _checksum(text: str) -> Score:
    return Score(name="checksum", value=zlib.crc32(text.encode()) % 1000 / 1000, outcome=Outcome.OK)


def _length(text: str) -> Score:
    return Score(name="length", value=float(len(text)), outcome=Outcome.OK)


def make_job(model: Path | str, *, evaluation: dict[str, Any] | None = None, **grpo: Any) -> JobSpec:
    small = {
        "steps": 3,
        "prompts_per_step": 2,
        "num_generations": 4,
        "max_completion_length": 8,
        "learning_rate": 1e-3,
        "gradient_checkpointing": False,
    }
    return JobSpec.model_validate(
        {
            "model": str(model),
            "seed": 7,
            "dataset": {"path": "data.jsonl"},
            "rewards": {"checksum": {"fn": "rewards.py:checksum"}},
            "grpo": small | grpo,
            "checkpoints": {"every": 1000, "keep": 10},
            "evaluation": evaluation or {},
        }
    )


def questions(count: int, start: int = 0) -> list[Example]:
    return [
        Example(id=i, prompt=[{"role": "user", "content": f"What is {i}?"}], columns={"number": i})
        for i in range(start, start + count)
    ]


def make_run(
    folder: Path,
    job: JobSpec,
    *,
    attempt: int = 1,
    train: Sequence[Example] = (),
    held_out: Sequence[Example] = (),
    scorer: Scorer | None = None,
    switch: Switch | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Run:
    return Run(
        job=job,
        folder=folder,
        train=train or questions(5),
        held_out=held_out,
        scorer=scorer or PureScorer(),
        switch=switch,
        journal=Journal(folder / f"journal-{attempt}.jsonl"),
        stop_requested=stop_requested,
        emulated=False,
    )


def events_of(folder: Path) -> list[Event]:
    """Of all attempts, in order."""
    return [event for path in sorted(folder.glob("journal-*.jsonl")) for event, _ in read(path)]


def batches(folder: Path, split: str = "train") -> list[BatchScored]:
    return [event for event in events_of(folder) if isinstance(event, BatchScored) and event.split == split]


def metrics(folder: Path) -> list[MetricsReported]:
    return [event for event in events_of(folder) if isinstance(event, MetricsReported)]
