"""What can happen in a run: one typed event for each.

The trainer appends these to its attempt's journal file; ingest turns them into rows of SQLite, and nothing else
writes those rows. A leaf: imports nothing of ours. `schemas/event.schema.json` is generated from this file.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Split = Literal["train", "eval"]


class Base(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Fields of every event; `Journal.append` fills them."""

    seq: int = 0
    """1, 2, 3 within one attempt."""
    at: float = 0.0
    """Wall clock, seconds since the epoch; for people, never for order."""


class AttemptStarted(Base, frozen=True, kw_only=True, tag="attempt_started"):
    """A trainer process begins. Everything recorded by earlier attempts after `resumed_step` is void."""

    attempt: int
    resumed_step: int | None
    """Step of the checkpoint it goes on from; None when it starts from the base model."""
    backend: str
    emulated: bool
    pid: int


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing the job asks for and this backend does not honour."""

    field: str
    asked: str
    kind: Literal["capped", "not applicable", "not implemented"]
    detail: str


class DifferencesFound(Base, frozen=True, kw_only=True, tag="differences_found"):
    """What the emulator can't honour of this job; shown in the record, the report and `plan`."""

    items: list[Difference]


class GuaranteeRow(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine keeps of one promise about reward code: see `runner.rewards.guarantees`."""

    name: Literal["memory", "network", "filesystem", "secrets", "signals", "subprocess"]
    state: Literal["enforced", "open", "not enforced"]
    """`open`: the job opened it."""
    why: str


class SandboxChecked(Base, frozen=True, kw_only=True, tag="sandbox_checked"):
    """What this attempt's rewards can't do, found by trying, before any of them ran."""

    guarantees: list[GuaranteeRow]


class ExampleRow(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    prompt: str
    """The exact text the model saw."""
    columns: dict[str, Any]


class ExamplesSeen(Base, frozen=True, kw_only=True, tag="examples_seen"):
    """Examples that appear for the first time in this attempt."""

    examples: list[ExampleRow]


class ScoreRow(msgspec.Struct, frozen=True, kw_only=True):
    """One reward call: see `runner.rewards.contract.Score`."""

    name: str
    value: float | None
    outcome: str
    reason: str | None = None
    error: str | None = None
    output: str | None = None
    seconds: float = 0.0


class RolloutRow(msgspec.Struct, frozen=True, kw_only=True):
    completion: str
    n_tokens: int
    finish_reason: str
    reward: float | None
    advantage: float
    scores: list[ScoreRow]


class GroupRow(msgspec.Struct, frozen=True, kw_only=True):
    group_id: int
    """Position of the group in its batch, from 0."""
    example_id: int
    rollouts: list[RolloutRow]


class BatchScored(Base, frozen=True, kw_only=True, tag="batch_scored"):
    """One batch of completions with its scores. All of it was scored by one reward version."""

    step: int
    split: Split
    reward_version: str
    groups: list[GroupRow]


class MetricsReported(Base, frozen=True, kw_only=True, tag="metrics_reported"):
    """Metrics of one finished step, or of one evaluation (`eval/…`). TRL's names; `time/…` in seconds."""

    step: int
    metrics: dict[str, float]


class ScoreChange(msgspec.Struct, frozen=True, kw_only=True):
    """How a function's scores of stored completions differ from the live version's."""

    name: str
    before: float | None
    """Mean; None for a function that is new."""
    after: float | None
    """None for a function that is gone."""
    rank: float | None
    """Spearman's rank correlation; None where it has no meaning."""


class VersionChanged(Base, frozen=True, kw_only=True, tag="version_changed"):
    """A reward version was staged, went live, was retired or was refused."""

    version: str
    number: int
    """1, 2, 3 within the run, in the order in which the trainer came to know of them."""
    state: Literal["staged", "active", "retired", "rejected"]
    first_step: int | None = None
    """`active`: the first training step whose completions it scores. `rejected`: for a version that failed while it
    was live, the first that it does not score any more."""
    error: str | None = None
    """`rejected`: why; the first line is enough for a person in a hurry."""
    asks: bool = False
    """`staged`: goes live when a person says so (`reload: ask`)."""
    changes: list[ScoreChange] = []
    """`staged`: on the last batch's completions."""
    reference: dict[str, float] = {}
    """`staged`: mean of every function over completions that are the same for all versions of the run."""


class CheckpointSaved(Base, frozen=True, kw_only=True, tag="checkpoint_saved"):
    step: int
    path: str
    """Relative to the run folder."""
    bytes: int
    weights: str
    """sha256 over the policy's weight files: equal runs have equal weights."""


class CheckpointRemoved(Base, frozen=True, kw_only=True, tag="checkpoint_removed"):
    step: int


class Alert(Base, frozen=True, kw_only=True, tag="alert"):
    """Something a person should see; the run goes on."""

    step: int
    code: str
    message: str


class AttemptEnded(Base, frozen=True, kw_only=True, tag="attempt_ended"):
    """The trainer's last word. An attempt without it was lost."""

    step: int
    reason: str
    """A `Reason`."""
    detail: str = ""


Event = (
    AttemptStarted
    | DifferencesFound
    | SandboxChecked
    | ExamplesSeen
    | BatchScored
    | MetricsReported
    | VersionChanged
    | CheckpointSaved
    | CheckpointRemoved
    | Alert
    | AttemptEnded
)

BULK = (ExamplesSeen, BatchScored)
"""Events whose contents live in tables of their own; the `events` table keeps no second copy."""


def type_of(event: Event) -> str:
    """The event's `type`, as in the journal and in SQL."""
    return str(event.__struct_config__.tag)


def is_timing(metric: str) -> bool:
    """Whether a metric depends on the clock: left out of the digest and of comparisons of two runs."""
    name = metric.removeprefix("eval/")
    return name == "step_time" or name.startswith("time/")
