"""What a scored batch says in figures. Names and definitions are TRL 1.16's, over all rows and not per group.

One difference: `rewards/<name>/mean` and `/std` count a function's value also where another function failed and the
completion left its group; TRL would be shown no value there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from runner.grpo.advantages import ScaleRewards, mean, std
from runner.grpo.types import Completion, Group, Score, Scored

OWN = {"mean", "std", "error_rate"}
"""Figures of a reward that `ctx.log_metric` can't take the place of."""
ZERO_STD = 1e-8
"""Tolerance of torch.isclose(std, 0), which TRL uses for `frac_reward_zero_std`."""


def batch_metrics(groups: Sequence[Group], scored: Sequence[Scored], scale: ScaleRewards) -> dict[str, float]:
    """Metrics over batches that belong together (one training batch, or all batches of one evaluation).

    `frac_reward_zero_std` is the share of rows whose group's rewards are all equal (`scale_rewards: batch`: whose
    batch's are). `rewards/<name>/error_rate` is the share of calls that failed. A figure without a value is left out.
    """
    rewards = [reward for batch in scored for reward in batch.rewards]
    figures = {
        "reward": mean(rewards),
        "reward_std": std(rewards),
        "frac_reward_zero_std": _share_without_spread(groups, rewards, scale),
        **_per_function(scored),
        **lengths([completion for group in groups for completion in group.completions]),
    }
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _share_without_spread(groups: Sequence[Group], rewards: Sequence[float | None], scale: ScaleRewards) -> float:
    whole = std(rewards) if len(rewards) > 1 else 0.0
    without = start = 0
    for group in groups:
        size = len(group.completions)
        spread = std(rewards[start : start + size]) if size > 1 else 0.0
        start += size
        if (whole if scale == "batch" else spread) <= ZERO_STD:
            without += size
    return without / start


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
