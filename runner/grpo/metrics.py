"""What a scored batch says in figures. Names and definitions are TRL 1.16's, over all rows and not per group.

One difference: `rewards/<name>/mean` and `/std` count a function's value also where another function failed and the
completion left its group; TRL would be shown no value there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from runner.grpo.advantages import mean, normalized_sums, std
from runner.grpo.types import Completion, Group, Score, Scored
from runner.spec.model import Grpo

OWN = {"mean", "std", "error_rate"}
"""Figures of a reward that `ctx.log_metric` can't take the place of."""
ZERO_STD = 1e-8
"""Tolerance of torch.isclose(std, 0), which TRL uses for `frac_reward_zero_std`."""


def batch_metrics(groups: Sequence[Group], scored: Sequence[Scored], grpo: Grpo) -> dict[str, float]:
    """Metrics over batches that belong together (one training batch, or all batches of one evaluation).

    `frac_reward_zero_std` is the share of rows whose group's rewards are all equal (`scale_rewards: batch` and GDPO:
    whose batch's are). `rewards/<name>/error_rate` is the share of calls that failed. A figure without a value is left
    out.
    """
    rewards = [reward for batch in scored for reward in batch.rewards]
    figures = {
        "reward": mean(rewards),
        "reward_std": std(rewards),
        "frac_reward_zero_std": _share_without_spread(groups, scored, grpo),
        **_per_function(scored),
        **lengths([completion for group in groups for completion in group.completions]),
    }
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _share_without_spread(groups: Sequence[Group], scored: Sequence[Scored], grpo: Grpo) -> float:
    sizes = [len(group.completions) for group in groups]
    if grpo.multi_objective_aggregation == "normalize_then_sum":
        compared = [z for batch in scored for z in normalized_sums(batch.values, batch.weights, sizes[0])]
        return 1.0 if _spread(compared) <= ZERO_STD else 0.0
    rewards = [reward for batch in scored for reward in batch.rewards]
    if grpo.scale_rewards == "batch":
        return 1.0 if _spread(rewards) <= ZERO_STD else 0.0
    equal = start = 0
    for size in sizes:
        equal += size if _spread(rewards[start : start + size]) <= ZERO_STD else 0
        start += size
    return equal / start


def _spread(values: Sequence[float | None]) -> float:
    return std(values) if len(values) > 1 else 0.0


def _per_function(scored: Sequence[Scored]) -> dict[str, float]:
    rows = [row for batch in scored for row in batch.scores]
    figures: dict[str, float] = {}
    for position, name in enumerate(score.name for score in rows[0]):
        column = [row[position] for row in rows]
        values = [score.value for score in column]
        figures[f"rewards/{name}/mean"] = mean(values)
        figures[f"rewards/{name}/std"] = std(values)
        logged = {key for score in column for key in score.metrics}
        figures |= {f"rewards/{name}/{key}": _mean_logged(column, key) for key in sorted(logged - OWN)}
        figures[f"rewards/{name}/error_rate"] = sum(score.outcome.is_error for score in column) / len(column)
    return figures


def _mean_logged(column: Sequence[Score], key: str) -> float:
    return mean([score.metrics[key] for score in column if key in score.metrics])


def lengths(completions: Sequence[Completion]) -> Mapping[str, float]:
    """Tokens a completion. `clipped_ratio`: share cut at the limit; `terminated`: of those that ended by themselves."""
    every = [completion.n_tokens for completion in completions]
    ended = [completion.n_tokens for completion in completions if completion.finish == "eos"] or [0]
    return {
        "completions/mean_length": mean(every),
        "completions/min_length": float(min(every)),
        "completions/max_length": float(max(every)),
        "completions/clipped_ratio": sum(completion.finish == "length" for completion in completions) / len(every),
        "completions/mean_terminated_length": mean(ended),
        "completions/min_terminated_length": float(min(ended)),
        "completions/max_terminated_length": float(max(ended)),
    }
