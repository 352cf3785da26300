"""One entry of the section `rewards:`, a function or a grader and how its calls are made."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field, field_validator, model_validator

from runner.spec.grader import grader_problems
from runner.spec.sandbox import Budget, RateLimit, Retries
from runner.spec.section import Count, Positive, Problem, Section, Text, nonsense

ONE_BY_ONE = ("concurrency", "rate_limit", "retries", "budget", "cache")
"""Settings of a reward that a call for a whole group can't have."""


class Reward(Section):
    """One reward function."""

    fn: Annotated[str, Field(pattern=r"^[^:]+\.py:[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """`file.py:function`, relative to the job: `def function(prompt, completion, example) -> number | None | {"score": …}`."""  # noqa: E501
    grader: dict[str, Any] | None = None
    """In place of `fn`: a grader of OpenAI's, as JSON or YAML. `string_check`, `python`, `score_model` (with `base_url:`, where the model is served) and `multi`."""  # noqa: E501
    weight: float = 1.0
    """Factor in the summed reward. 0: recorded, not optimised."""
    trusted: bool = False
    """The measure you really care about; alarms compare the others with it."""
    timeout: Positive = 10.0
    """Seconds one call may take before it is stopped and recorded as `timeout`."""
    on_error: Literal["mask", "zero", "fail"] = "mask"
    """A failed call: `mask` takes the completion out of its group, `zero` scores 0 (Predibase's rule), `fail` stops the run."""  # noqa: E501
    isolation: Literal["auto", "worker", "call"] = "auto"
    """What a call shares with the next: `worker` its process, `call` nothing (about 1 ms a call). `auto`: `call` where the source has eval, exec, subprocess, pickle or the like, except with `batch: group`."""  # noqa: E501
    concurrency: Count | None = None
    """Calls at the same time, for rewards that wait for others. Unset: one a worker; 64 for `async def`. Plain functions get a process each."""  # noqa: E501
    rate_limit: RateLimit | None = None
    """How fast calls may start."""
    retries: Retries | None = None
    """Calls that raise ConnectionError, TimeoutError or `ctx.Retry` are tried again."""
    budget: Budget | None = None
    """What the calls of one run may use; then the run stops."""
    cache: bool = False
    """Score an equal prompt, completion and example once, by what is kept in the run folder. The function must depend on nothing else."""  # noqa: E501
    clip: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """Least and greatest value, as `[0, 1]`: what the function gives beyond them counts as the bound."""
    only_if: Text | None = None
    """Condition over other rewards of the completion, as `format > 0 and length <= 200`. Where it doesn't hold the function isn't called and adds nothing."""  # noqa: E501

    style: Literal["runner", "trl", "predibase", "verl"] = "runner"
    """How the function is called. `trl`: lists by keyword. `predibase`: all-text examples, what is no number counts as 0. `verl`: `compute_score(data_source, solution_str, ground_truth, extra_info)`."""  # noqa: E501
    batch: Literal["one", "group"] = "one"
    """`group` (style `trl`): one call for each group; when it fails, every completion of the group has failed."""

    @model_validator(mode="before")
    @classmethod
    def _predibase_counts_errors_as_zero(cls, value: Any) -> Any:
        fields: dict[str, Any] = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        return {"on_error": "zero", **fields} if fields.get("style") == "predibase" else cast(Any, value)

    @model_validator(mode="after")
    def _is_a_function_or_a_grader(self) -> Self:
        if self.grader is None and self.fn is None:
            raise nonsense(Problem("fn", "is required", "for example `fn: rewards.py:correct`"))
        if self.grader is not None and self.fn is not None:
            raise nonsense(Problem("grader", "stands in place of `fn`", "remove one of them"))
        if self.grader is not None and self.style != "runner":
            raise nonsense(Problem("style", "is for functions", "remove it"))
        problems = grader_problems(self.grader) if self.grader is not None else []
        if problems:
            raise nonsense(*problems)
        return self

    @model_validator(mode="after")
    def _groups_are_for_trl(self) -> Self:
        if self.batch == "group" and self.style != "trl":
            raise nonsense(Problem("batch", f"style `{self.style}` takes one completion", "write `style: trl`"))
        if self.batch == "group" and self.only_if is not None:
            raise nonsense(Problem("only_if", "a whole group is called at once", "remove `batch: group`"))
        one_by_one = [name for name in ONE_BY_ONE if getattr(self, name)] if self.batch == "group" else []
        if self.batch == "group" and self.isolation == "call":
            one_by_one.append("isolation")
        if one_by_one:
            raise nonsense(*(Problem(n, "is for calls of one completion", "remove `batch: group`") for n in one_by_one))
        return self

    @field_validator("clip")
    @classmethod
    def _clip_is_a_range(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and value[0] >= value[1]:
            raise nonsense(Problem("", f"[{value[0]:g}, {value[1]:g}] is no range", "write the lesser bound first"))
        return value
