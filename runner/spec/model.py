"""The job, typed: what `job.yaml` may say, and every default in force.

Names inside `grpo:` are TRL's where TRL has the concept. Every value has its default here, never in TRL, which changes
its own between minor versions. Sections are present or absent; there is no `enabled:`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from runner.spec.gate import gate_problems
from runner.spec.grpo import Grpo
from runner.spec.mishaps import Fault
from runner.spec.reward import Reward
from runner.spec.sandbox import Budget, Ports, RateLimit, Retries, Sandbox, Secret, VariableName
from runner.spec.section import Count, Name, NotNegative, Positive, Problem, Requirement, Section, Share, Text, nonsense

Duration = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}(s|m|h|d)$")]

__all__ = ["Budget", "Grpo", "Ports", "RateLimit", "Retries", "Reward", "Sandbox", "Secret", "Section"]


class Lora(Section):
    """Train a LoRA adapter instead of all weights."""

    rank: Count = 64
    """Rank of the adapter's matrices."""
    alpha: Positive = 64.0
    """Scale: the adapter's output is multiplied by alpha / rank."""
    dropout: Share = 0.0
    """Dropout on the adapter's input."""
    target_modules: Literal["all-linear"] | Annotated[list[Text], Field(min_length=1)] = "all-linear"
    """Names of the layers that get an adapter."""
    adapter: Text | None = None
    """Folder (or hub id) of a trained adapter to go on from, as supervised fine-tuning leaves it: rank, alpha, dropout and layers are then its own, and it is the reference that `beta` holds on to."""  # noqa: E501
    quantize: Literal["nf4"] | None = None
    """QLoRA: the base model's weights in 4 bits (bitsandbytes, GPU only)."""


class Dataset(Section):
    """Where the prompts come from."""

    path: Text
    """File beside the job (.jsonl, .json, .csv, .parquet), or a hub id with optional `:config` and `@revision`."""
    prompt: Text | None = None
    """Template over the columns, as in "Make {target} from {nums}". Unset: the column named `prompt`."""
    format: Literal["auto", "text", "chat"] = "auto"
    """`text`: the prompt as it stands. `chat`: as messages through the model's chat template. `auto`: chat where the column holds messages, or `system` or `prefill` is set; else text."""  # noqa: E501
    system: str | None = None
    """System message put before the prompt (chat)."""
    prefill: str | None = None
    """Start of the assistant's turn that the model goes on from (chat)."""
    holdout: Share = 0.0
    """Share of the prompts kept for evaluation, chosen by a hash of the prompt. A column `split` (`train` / `evaluation`) decides where there is one."""  # noqa: E501
    limit: Count | None = None
    """Use only the first rows."""

    @model_validator(mode="after")
    def _text_has_no_turns(self) -> Self:
        turns = [name for name in ("system", "prefill") if getattr(self, name) is not None]
        if self.format == "text" and turns:
            raise nonsense(
                *(Problem(name, "needs a chat prompt, and format is `text`", "write `format: chat`") for name in turns)
            )
        return self


class Evaluation(Section):
    """When and how held-out prompts are tried. Always at step 0 and at the end as well."""

    every: Count | None = None
    """Steps between evaluations; unset: only at the start and at the end."""
    num_generations: Count = 1
    """Completions of each held-out prompt."""
    temperature: NotNegative = 0.0
    """0 is greedy: the same model gives the same figure."""
    limit: Count | None = None
    """Use only the first held-out prompts."""


class Best(Section):
    """Which checkpoint is the best one."""

    metric: Text
    """A metric's name, as `eval/reward` or `eval/rewards/equation/mean`. A new best evaluation is saved at once; of a training metric the checkpoints due by `every` are compared."""  # noqa: E501
    mode: Literal["max", "min"] = "max"
    """Whether the highest or the lowest is best."""


class Checkpoints(Section):
    """What is kept to resume and to use."""

    every: Count = 50
    """Steps between checkpoints; there is always one at the end and at a stop."""
    keep: Count = 2
    """The last this many stay on the disk."""
    best: Best | None = None
    """The best one stays, too: `checkpoints/best`, and `RUN@best` in `runner prompt`."""


class Condition(Section):
    """A metric and the bound it has to keep."""

    metric: Text
    """A metric's name, as `rewards/format/mean` or `eval/rewards/equation/mean`."""
    at_least: float | None = None
    """Lower bound."""
    at_most: float | None = None
    """Upper bound."""

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if not self.is_bounded():
            raise nonsense(Problem("", f"{self.metric} has no bound to keep", "give `at_least` or `at_most`"))
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            message = f"at_least {self.at_least:g} is above at_most {self.at_most:g}: no value can hold"
            raise nonsense(Problem("at_least", message, "swap the two"))
        return self

    def is_bounded(self) -> bool:
        return self.at_least is not None or self.at_most is not None


class Expect(Condition):
    """What must hold at the end; else exit code 3. Every bound given has to hold."""

    last: Count = 1
    """The mean of the last this many recorded values is judged."""
    rises_by: float | None = None
    """Least rise of that mean over the mean of the first `last` values."""

    def is_bounded(self) -> bool:
        return super().is_bounded() or self.rises_by is not None


class Stop(Condition):
    """Ends the run early, as succeeded."""

    for_: Annotated[int, Field(ge=1, alias="for")] = 1
    """Number of consecutive recorded values that must hold."""


class Limits(Section):
    """Budgets. A run that hits one is checkpointed and ends as `timed_out`, exit code 4."""

    max_duration: Duration | None = None
    """Wall time over all attempts: `90s`, `30m`, `12h`, `2d`."""
    max_tokens: Count | None = None
    """Generated tokens."""


class Retry(Section):
    """When `runner watch` starts a run again that was cut off. It goes on from its last checkpoint."""

    max: Annotated[int, Field(ge=0)] = 2
    """Starts again in a row that may end without a new checkpoint; then the run is held."""
    on: list[Literal["lost", "out_of_memory", "engine_failed", "disk_full", "environment"]] = [
        "lost",
        "out_of_memory",
        "engine_failed",
    ]
    """Reasons to start again for. `lost`: killed, or the machine went down. `out_of_memory`: goes on with a micro-batch half as large; `engine_failed`: vLLM or the GPU. For these two `runner run` goes on by itself, too."""  # noqa: E501
    backoff: Duration = "10s"
    """Pause before the first of them; each further one is twice as long, up to ten minutes."""


class Emulator(Section):
    """What differs in miniature on a CPU, and what CI expects of it. Fields named as in `grpo:` override it."""

    policy: Literal["lm", "replay"] = "lm"
    """`lm`: a tiny language model. `replay`: a softmax policy over recorded completions, no torch."""
    model: Text | None = None
    """`lm`: folder of a small Llama-type model to use instead of the shipped weights."""
    demonstrations: Text | None = None
    """`lm`: rows like the dataset's with lists `good` and `bad` of completions; the model learns to write both before it is trained, so that a format of your own has signal."""  # noqa: E501
    completions: Text | None = None
    """`replay`: JSON lines with `prompt` and `completions`, or rows whose columns match the dataset's; or `run:<id>`, what an earlier run recorded."""  # noqa: E501
    threads: Count = 1
    """`lm`: processes on a core each, which share out the completions of every step. The digest is promised for equal threads."""  # noqa: E501
    steps: Count | None = None
    """Overrides `grpo.steps`."""
    prompts_per_step: Count | None = None
    """Overrides `grpo.prompts_per_step`."""
    num_generations: Annotated[int, Field(ge=2)] | None = None
    """Overrides `grpo.num_generations`."""
    max_completion_length: Count | None = None
    """Overrides `grpo.max_completion_length`."""
    learning_rate: Positive | None = None
    """Overrides `grpo.learning_rate`."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] | None = None
    """Overrides `grpo.lr_scheduler_type`."""
    temperature: Positive | None = None
    """Overrides `grpo.temperature`."""
    beta: NotNegative | None = None
    """Overrides `grpo.beta`."""
    evaluate_every: Count | None = None
    """Overrides `evaluation.every`."""
    checkpoint_every: Count | None = None
    """Overrides `checkpoints.every`."""
    expect: list[Expect] = []
    """What an emulated run must reach; judged instead of the top-level `expect`."""
    faults: list[Fault] = []
    """What goes wrong on purpose, to see the run recover."""

    @model_validator(mode="after")
    def _policy_has_what_it_needs(self) -> Self:
        if self.policy == "replay" and self.completions is None:
            hint = "give `completions:`, a file of recorded completions"
            raise nonsense(Problem("policy", "`replay` needs completions to replay", hint))
        if self.policy == "replay" and self.demonstrations is not None:
            hint = "use `policy: lm`, or list the texts in `completions`"
            raise nonsense(Problem("demonstrations", "`replay` learns from `completions` only", hint))
        return self


_REWARD_METRIC = re.compile(r"(?:eval/)?rewards/([^/]+)/")


def _metric_problems(
    value: Stop | Emulator | Checkpoints | list[Expect] | None, rewards: Mapping[str, Reward]
) -> list[Problem]:
    match value:
        case None:
            named: list[tuple[str, Condition | Best]] = []
        case Stop():
            named = [("metric", value)]
        case Checkpoints():
            named = [("best.metric", value.best)] if value.best else []
        case Emulator():
            named = [(f"expect.{i}.metric", item) for i, item in enumerate(value.expect)]
        case list():
            named = [(f"{i}.metric", item) for i, item in enumerate(value)]
    return [problem for field, item in named for problem in _metric_problem(field, item.metric, rewards)]


def _metric_problem(field: str, metric: str, rewards: Mapping[str, Reward]) -> list[Problem]:
    match = _REWARD_METRIC.match(metric)
    if match is None or match[1] in rewards:
        return []
    near = difflib.get_close_matches(match[1], rewards, n=1)
    hint = f"did you mean `{metric.replace(match[1], near[0], 1)}`?" if near else f"rewards: {', '.join(rewards)}"
    return [Problem(field, f"{metric}: there is no reward named `{match[1]}`", hint)]


def _gates_are_sound(rewards: dict[str, Reward]) -> dict[str, Reward]:
    problems = gate_problems({name: reward.only_if for name, reward in rewards.items()})
    if problems:
        raise nonsense(*problems)
    return rewards


def _something_is_optimised(rewards: dict[str, Reward]) -> dict[str, Reward]:
    if all(reward.weight == 0 for reward in rewards.values()):
        raise nonsense(Problem("", "every weight is 0, so nothing would be learnt", "give one reward a weight"))
    return rewards


class JobSpec(Section):
    """One reinforcement fine-tuning job."""

    name: Name | None = None
    """Unset: the folder's (or the file's) name."""
    model: Text
    """Hub id with optional `@revision`, or a folder beside the job."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Decides data order and sampling."""
    lora: Lora | None = None
    """Absent: all weights are trained."""
    dataset: Dataset
    """Where the prompts come from."""
    rewards: Annotated[
        dict[Name, Reward],
        Field(min_length=1, json_schema_extra={"additionalProperties": False}),
        AfterValidator(_something_is_optimised),
        AfterValidator(_gates_are_sound),
    ]
    """Reward functions by name; the name stands in metrics, graphs and tables."""
    sandbox: Sandbox = Sandbox()
    """What reward code may reach. Everything is closed unless it is opened here."""
    secrets: Annotated[
        dict[VariableName, Secret],
        Field(json_schema_extra={"additionalProperties": False}),
    ] = {}
    """Environment variables of the reward functions whose values are nobody else's business, by name."""
    packages: list[Requirement] | None = None
    """What the rewards import, as `[sympy, "numpy==2.*"]`: then they see these and the standard library only. Unset: what is installed beside the runner."""  # noqa: E501
    grpo: Grpo = Grpo()
    """The training itself. Names are TRL's (`GRPOConfig`) where TRL has the concept."""
    evaluation: Evaluation = Evaluation()
    """Held-out prompts are tried where the dataset has any (`dataset.holdout`, or a `split` column)."""
    checkpoints: Checkpoints = Checkpoints()
    """What is kept to resume and to use."""
    stop: Stop | None = None
    """Ends the run early, as succeeded."""
    expect: list[Expect] = []
    """What a real run must reach at its end; else exit code 3."""
    emulator: Emulator = Emulator()
    """What differs in miniature on a CPU, and what CI expects of it."""
    limits: Limits = Limits()
    """Budgets. A run that hits one is checkpointed and ends as `timed_out`, exit code 4."""
    reload: Literal["auto", "ask", "off"] = "auto"
    """Edits of rewards while the job trains: `auto` puts them live at the next step, `ask` waits for `runner reward accept`, `off` leaves the run alone."""  # noqa: E501
    priority: int = 0
    """Higher goes first in the queue."""
    after: list[Name] = []
    """Jobs in the same folder whose latest revision has to succeed first (`runner watch`)."""
    retry: Retry = Retry()
    """When `runner watch` starts a run again that was cut off."""
    report_to: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = []
    """Trackers that get the metrics as well (TRL backend). One that fails is left out; the run goes on."""
    labels: dict[str, str] = {}
    """Shown with the run; no meaning to us."""

    @field_validator("stop", "expect", "emulator", "checkpoints")
    @classmethod
    def _metrics_are_of_this_job(cls, value: Any, info: ValidationInfo) -> Any:
        rewards = info.data.get("rewards")  # absent when it is itself at fault
        problems = [problem for problem in _metric_problems(value, rewards or {}) if rewards]
        if problems:
            raise nonsense(*problems)
        return value


LIVE_FIELDS = frozenset({"rewards", "packages", "reload", "priority", "limits", "labels", "after", "retry"})
"""Fields whose change makes no new revision: they act on the run that is there."""

EMULATOR_OVERRIDES: dict[str, tuple[str, str]] = {
    "steps": ("grpo", "steps"),
    "prompts_per_step": ("grpo", "prompts_per_step"),
    "num_generations": ("grpo", "num_generations"),
    "max_completion_length": ("grpo", "max_completion_length"),
    "learning_rate": ("grpo", "learning_rate"),
    "lr_scheduler_type": ("grpo", "lr_scheduler_type"),
    "temperature": ("grpo", "temperature"),
    "beta": ("grpo", "beta"),
    "evaluate_every": ("evaluation", "every"),
    "checkpoint_every": ("checkpoints", "every"),
}
"""`emulator.<key>` → the (section, field) it overrides."""


def dump(job: JobSpec) -> dict[str, Any]:
    """The job as plain JSON values, every default written out, under the names of `job.yaml`."""
    return job.model_dump(mode="json", by_alias=True)
