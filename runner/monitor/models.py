"""What the API answers, typed. Texts are given as they are; a number that is not finite is null."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from runner.journal.events import Split
from runner.journal.states import Reason, State
from runner.monitor.settings import Right
from runner.store.browse import TEXT_CHARS
from runner.store.rows import CompletionRow


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Figure = Annotated[float | None, BeforeValidator(_finite)]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True, use_attribute_docstrings=True)


class Problem(Model):
    """Any answer that is not what was asked for."""

    code: str
    """Stable, as `run_unknown`, `database_missing`, `right`."""
    detail: str
    """For people: what is wrong, and the way out."""


class HomeInfo(Model):
    home: str
    emulate: bool
    """Whether runs started from here are emulated."""
    version: str
    token: bool
    """Whether the monitor asks for one. False: everybody who reaches it has its rights."""
    rights: list[Right]
    problems: list[str]
    """What keeps runs' records from being taken in."""


class Run(Model):
    id: str
    number: int
    """Order of submission; `before` of the next page."""
    job: str
    revision: str
    backend: str
    emulated: bool
    parent: str | None
    state: State
    reason: Reason | None
    reason_words: str | None
    next_action: str | None
    """What a person can do now, in words."""
    detail: str
    error: str | None
    want: str
    last_step: int
    total_steps: int
    created_at: float
    started_at: float | None
    ended_at: float | None
    digest: str | None
    digest_note: str
    reward: list[tuple[int, Figure]]
    """Mean reward at no more than 60 steps, as (step, value)."""


class RunList(Model):
    runs: list[Run]
    next: int | None


class Job(Model):
    name: str
    path: str
    revision: str | None
    state: str
    errors: list[Any]
    """Findings: code, message, hint, field, file, line, column, excerpt, severity."""
    seen_at: float | None
    latest_run: Run | None


class JobList(Model):
    jobs: list[Job]


class RewardInfo(Model):
    name: str
    weight: float
    trusted: bool
    on_error: str | None


class Attempt(Model):
    n: int
    resumed_step: int | None
    outcome: str | None
    exit_code: int | None
    started_at: float | None
    ended_at: float | None


class Checkpoint(Model):
    step: int
    path: str
    bytes: int
    kept: bool
    weights: str


class Version(Model):
    version: int
    sha256: str
    state: str
    first_step: int | None
    error: str | None


class Alert(Model):
    id: int
    step: int | None
    at: float
    code: str
    message: str


class RunDetail(Run):
    spec: dict[str, Any]
    differences: list[dict[str, Any]]
    """What the job asks for and its backend does not honour."""
    rewards: list[RewardInfo]
    attempts: list[Attempt]
    checkpoints: list[Checkpoint]
    versions: list[Version]
    alerts: list[Alert]
    metric_names: list[str]
    splits: list[Split]


class MetricSeries(Model):
    steps: list[int]
    """First step of each bucket."""
    values: list[float | None]
    """Mean of each bucket; null where no value is finite."""
    lows: list[float | None]
    highs: list[float | None]
    nonfinite: int


class MetricTable(Model):
    size: int
    """Steps in a bucket."""
    series: dict[str, MetricSeries]


class Marker(Model):
    step: int
    kind: Literal["version", "checkpoint", "restart", "alert", "evaluation"]
    text: str


class StepList(Model):
    steps: list[int]


class Prompt(Model):
    example_id: int
    prompt: str
    prompt_length: int
    """In characters."""
    columns: dict[str, Any]
    completions: int
    first_step: int
    last_step: int
    best: Figure
    mean: Figure


class PromptList(Model):
    prompts: list[Prompt]
    next: str | None


class Score(Model):
    value: Figure
    outcome: str
    reason: str | None
    error: str | None
    output: str | None
    seconds: float


class Completion(Model):
    id: int
    run_id: str
    split: Split
    step: int
    group_id: int
    idx: int
    example_id: int
    prompt: str | None
    completion: str
    n_tokens: int
    finish_reason: str
    reward: Figure
    advantage: Figure
    reward_version: str
    scores: dict[str, Score]
    truncated: bool = False
    """The completion or its prompt is longer than what is shown."""

    @classmethod
    def of(cls, row: CompletionRow) -> Completion:
        cut = max(len(row.completion), len(row.prompt or "")) >= TEXT_CHARS
        return cls.model_validate(row).model_copy(update={"truncated": cut})


class CompletionList(Model):
    completions: list[Completion]
    next: str | None
    """Also set where the time for one page was up; go on with it, even when the page is empty."""


class Group(Model):
    group_id: int
    example_id: int
    prompt: str | None
    completions: int
    scored: int
    reward_mean: Figure
    reward_min: Figure
    reward_max: Figure
    signal: bool
    """Whether rewards differ: a group of equal ones teaches nothing."""


class GroupList(Model):
    groups: list[Group]


class LogEntry(Model):
    rollout_id: int
    step: int
    split: Split
    name: str
    version: str
    outcome: str
    error: str | None
    output: str | None


class LogList(Model):
    logs: list[LogEntry]
    next: str | None


class VersionSources(Model):
    files: dict[str, str]
    editable: list[str]
    """Those that somebody wrote; the others are generated from the job."""
    diff_from_previous: str
    """Unified diff; empty for the first version."""
    wanted: str
    """The version that the run is to use, as of now."""


class Edited(Model):
    base: Sha256
    """The reward version whose files were edited."""
    files: dict[str, str] = Field(min_length=1)
    """The edited ones, by their path in the job's folder."""


class RescoreRequest(Edited):
    last_steps: int = Field(default=20, ge=1, le=100_000)
    """How many of the latest steps that have completions."""
    split: Split = "train"


class Publication(Edited):
    expected: Sha256
    """`wanted` of the version that was shown: an edit that came in between is not overwritten."""


class Published(Model):
    sha256: str


class VersionNumber(Model):
    version: int = Field(ge=1)


class Saved(Model):
    paths: list[str]


class ScoreChange(Model):
    """A function's scores, or the `reward`, before and after, over the same completions."""

    name: str
    values: int
    changed: int
    mean_before: Figure
    mean_after: Figure
    rank_correlation: Figure
    group_rank_correlation: Figure
    new_winners: int
    """Groups with another best completion."""
    gained: int
    """Groups that had no signal and have some."""
    lost: int
    groups: int


class Moved(Model):
    rollout_id: int
    step: int
    completion: str
    """Its beginning."""
    before: Figure
    after: Figure


class CallFailure(Model):
    outcome: str
    error: str


class Rescored(Model):
    version: str
    """sha256 of the version that the edited files make."""
    steps: tuple[int, int]
    completions: int
    changes: list[ScoreChange]
    failed: dict[str, int]
    """Calls of each function that fail."""
    failures: list[CallFailure]
    points: list[tuple[Figure, Figure]]
    """Totals before and after of some of the completions."""
    moved: list[Moved]
    """Completions whose totals changed, most changed first."""


class Lab(Model):
    state: Literal["idle", "scoring", "done", "failed", "cancelled"]
    done: int = 0
    """Steps."""
    total: int = 0
    error: str | None = None
    result: Rescored | None = None


class MetricChange(Model):
    name: str
    a: Figure
    b: Figure
    """Mean of the last tenth of the steps; of an evaluation, the last value."""


class Comparison(Model):
    spec_differences: list[tuple[str, Any, Any]]
    headline: list[MetricChange]
