"""What only trying shows of a finished run: do the rewards say the same twice, does a resume come to the same?

Works on the run folder alone, beside it and never in it. The rewards are called again on completions of the first and
the last step, in the same order and under the same seeds as then. The first steps are trained again with a stop and a
resume between them, from the same data with the same rewards, and held against what the run recorded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from runner.backends import load_backend
from runner.data.load import Data, load_examples
from runner.grpo.inputs import Inputs, read_inputs, reward_settings
from runner.grpo.run import Run
from runner.journal import events, log
from runner.journal.events import is_timing
from runner.journal.folder import RunFolder
from runner.journal.log import Journal
from runner.rewards.contract import GroupCall, Outcome, Score
from runner.rewards.host import RewardHost
from runner.rewards.versions import Shelf
from runner.spec.model import JobSpec

MAX_COMPLETIONS = 16
"""Of a step, that the rewards are called on again."""
STOP_AFTER, END_AFTER = 2, 4
"""Steps after which the second try is stopped, and after which it is over."""


class Twice(msgspec.Struct, frozen=True, kw_only=True):
    """One reward function, called again on completions that it had scored."""

    name: str
    calls: int
    """Completions compared; 0 where none was scored without an error."""
    differing: int
    example: str = ""
    """The values of one that differed."""


class Resumed(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a stop and a resume."""

    steps: int
    """Compared; 0 where it could not be tried."""
    stopped_after: int
    difference: str = ""
    """The first one, in words; or why it could not be tried."""


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    twice: list[Twice]
    resumed: Resumed

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, content: bytes) -> Probed:
        """Raises msgspec.DecodeError where the process was cut short."""
        return msgspec.json.decode(content, type=cls)


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """What a journal tells of training."""

    examples: dict[int, events.ExampleRow]
    batches: dict[int, list[events.BatchScored]]
    """By step."""
    metrics: dict[int, dict[str, float]]


def probe(folder: RunFolder) -> Probed:
    """Tries rewards and resume of an emulated run that has ended."""
    inputs = read_inputs(folder)
    recorded = read_training(folder.journal(number) for number in folder.attempts())
    data = load_examples(inputs.job, inputs.data_folder)
    shelf = Shelf(folder.rewards)
    settings = reward_settings(inputs, state=None)
    steps = inputs.job.grpo.steps
    with RewardHost(shelf.path(shelf.wanted), seed=inputs.job.seed, steps=steps, settings=settings) as host:
        return Probed(twice=call_twice(host, recorded, data), resumed=resume(inputs, data, host, recorded))


def read_training(journals: Iterator[Path]) -> Recorded:
    """Training rows of the journals: completions, scores, metrics."""
    recorded = Recorded(examples={}, batches={}, metrics={})
    for path in journals:
        for event, _ in log.read(path):
            match event:
                case events.ExamplesSeen():
                    recorded.examples.update({example.id: example for example in event.examples})
                case events.BatchScored(split="train"):
                    recorded.batches.setdefault(event.step, []).append(event)
                case events.MetricsReported():
                    shown = {name: v for name, v in event.metrics.items() if not is_timing(name)}
                    training = {name: v for name, v in shown.items() if not name.startswith("eval/")}
                    recorded.metrics.setdefault(event.step, {}).update(training)
                case _:
                    pass
    return recorded


# ------------------------------------------------------------------------------------------------------ the same twice


def call_twice(host: RewardHost, recorded: Recorded, data: Data) -> list[Twice]:
    """Every function twice more on some completions; with what was recorded that makes three values."""
    said: dict[str, list[list[Score | events.ScoreRow]]] = {function.name: [] for function in host.functions}
    for step in dict.fromkeys((min(recorded.batches, default=0), max(recorded.batches, default=0))):
        for batch in recorded.batches.get(step, [])[:1]:
            if batch.reward_version == host.version:
                _call_again(host, batch, recorded, data, said)
    return [_twice(name, values) for name, values in said.items()]


def _call_again(
    host: RewardHost,
    batch: events.BatchScored,
    recorded: Recorded,
    data: Data,
    said: dict[str, list[list[Score | events.ScoreRow]]],
) -> None:
    size = max(1, MAX_COMPLETIONS // len(batch.groups[0].rollouts))
    groups = batch.groups[:size]
    examples = {example.id: example for example in (*data.train, *data.eval)}
    calls = [_group_call(group, recorded, examples[group.example_id].prompt) for group in groups]
    again = [host.score(calls, step=batch.step, split="train") for _ in range(2)]
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    for rollout, first, second in zip(rollouts, *again, strict=True):
        for stored, a, b in zip(rollout.scores, first, second, strict=True):
            if stored.outcome in (Outcome.OK, Outcome.NONE):
                said[stored.name].append([stored, a, b])


def _group_call(group: events.GroupRow, recorded: Recorded, prompt: object) -> GroupCall:
    example = recorded.examples[group.example_id]
    return GroupCall(
        prompt=example.prompt,
        example=example.columns,
        completions=[rollout.completion for rollout in group.rollouts],
        finish=[rollout.finish_reason for rollout in group.rollouts],
        messages=prompt if isinstance(prompt, list) else None,  # pyright: ignore[reportUnknownArgumentType]
    )


def _twice(name: str, values: Sequence[Sequence[Score | events.ScoreRow]]) -> Twice:
    differing = [row for row in values if len({(score.outcome, score.value) for score in row}) > 1]
    example = ", then ".join(_word(score) for score in differing[0]) if differing else ""
    return Twice(name=name, calls=len(values), differing=len(differing), example=example)


def _word(score: Score | events.ScoreRow) -> str:
    return str(score.outcome) if score.value is None else f"{score.value:.6g}"


# ------------------------------------------------------------------------------------------------------ resume


def resume(inputs: Inputs, data: Data, host: RewardHost, recorded: Recorded) -> Resumed:
    """The first steps again, with a stop and a resume in between, against what was recorded."""
    end = min(END_AFTER, max(recorded.metrics, default=0))
    stop = min(STOP_AFTER, end - 1)
    if stop < 1:
        return Resumed(steps=0, stopped_after=0, difference="the run has fewer than two steps")
    if any(batch.reward_version != host.version for step in range(1, end + 1) for batch in recorded.batches[step]):
        return Resumed(steps=0, stopped_after=0, difference="the rewards were edited while it ran")
    with tempfile.TemporaryDirectory(prefix="resume-") as scratch:
        journals = [_train(inputs, data, host, Path(scratch), part, after) for part, after in ((1, stop), (2, end))]
        again = read_training(iter(journals))
    return Resumed(steps=end, stopped_after=stop, difference=difference(recorded, again, end))


def _train(inputs: Inputs, data: Data, host: RewardHost, folder: Path, part: int, after: int) -> Path:
    """Trains from the last checkpoint in the folder, if there is one, until after that step. Gives the journal."""
    path = folder / f"{part}.jsonl"
    journal = Journal(path)
    run = Run(
        job=inputs.job,
        folder=folder,
        train=data.train,
        held_out=(),
        scorer=host,
        journal=journal,
        stop_requested=lambda: run.step >= after,
        emulated=True,
    )
    load_backend(inputs.backend).train(_without_faults(inputs.job), run)
    journal.close()
    return path


def _without_faults(job: JobSpec) -> JobSpec:
    """What goes wrong on purpose is for the run itself, once."""
    return job.model_copy(update={"emulator": job.emulator.model_copy(update={"faults": []})})


def difference(first: Recorded, second: Recorded, end: int) -> str:
    """What the second has otherwise in the steps up to `end`, the first place of it; empty when nothing."""
    for step in range(1, end + 1):
        a, b = _rows(first, step), _rows(second, step)
        if len(a) != len(b):
            return f"step {step}: {len(a)} completions, then {len(b)}"
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            if one != other:
                return f"step {step}: completion {i}, its scores or its advantage differ"
        for name, value in first.metrics[step].items():
            if second.metrics.get(step, {}).get(name) != value:
                return f"step {step}: {name} is {value!r}, then {second.metrics.get(step, {}).get(name)!r}"
    return ""


def _rows(recorded: Recorded, step: int) -> list[tuple[object, ...]]:
    return [
        (group.example_id, rollout.completion, rollout.reward, rollout.advantage,
         tuple((score.name, score.value, score.outcome) for score in rollout.scores))
        for batch in recorded.batches.get(step, [])
        for group in batch.groups
        for rollout in group.rollouts
    ]  # fmt: skip
