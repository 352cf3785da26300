"""Group-relative advantages, exactly as TRL 1.16 computes them (`GRPOTrainer._generate_and_score_completions`).

Two ways to make one advantage of several rewards: sum them and compare the sums in the group (`advantages`), or compare
each in the group and sum that (`normalized_advantages`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

ScaleRewards = Literal["group", "batch", "none"]
Values = Sequence[Sequence[float | None]]
"""Scores of F functions for n completions, None where a function gave none. [n][F]"""

EPSILON = 1e-4
"""Added to the standard deviation, as in TRL."""


def weighted_rewards(values: Values, weights: Sequence[float]) -> list[float | None]:
    """r_i = Σ_f w_f · v_if over the functions that gave a value; None where none did ("unscorable" in TRL). [n]

    A None beside a value adds nothing: the sum is not re-normalised.
    """
    return [
        None
        if all(value is None for value in row)
        else sum(weight * value for weight, value in zip(weights, row, strict=True) if value is not None)
        for row in values
    ]


def advantages(rewards: Sequence[float | None], group_size: int, scale: ScaleRewards) -> list[float]:
    """A_i = (r_i − mean(group)) / (std + ε) with ε = 1e-4; 0.0 where r_i is None. [n]

    `std` is Bessel-corrected, over the group (`group`) or over the whole batch (`batch`); `none` doesn't divide
    (Dr. GRPO). None is left out of mean and std. With fewer than two rewards there is no std and the advantage is 0.
    """
    groups = [rewards[i : i + group_size] for i in range(0, len(rewards), group_size)]
    batch_std = std(rewards)
    result: list[float] = []
    for group in groups:
        center = mean(group)
        spread = std(group) if scale == "group" else batch_std
        result += [_advantage(reward, center, spread, scale) for reward in group]
    return result


def _advantage(reward: float | None, center: float, spread: float, scale: ScaleRewards) -> float:
    if reward is None:
        return 0.0
    if scale == "none":
        return reward - center
    return 0.0 if math.isnan(spread) else (reward - center) / (spread + EPSILON)


def normalized_sums(values: Values, weights: Sequence[float], group_size: int) -> list[float | None]:
    """Z_i = Σ_f w_f · (v_if − mean_f) / (std_f + ε), mean and std of function f in the group (GDPO). [n]

    None where no function gave a value. A function with one value in its group adds nothing there.
    """
    normalized: list[tuple[float | None, ...]] = []
    for start in range(0, len(values), group_size):
        columns = zip(*values[start : start + group_size], strict=True)
        normalized += zip(*(_normalized(column) for column in columns), strict=True)
    return weighted_rewards(normalized, weights)


def _normalized(column: Sequence[float | None]) -> list[float | None]:
    center, spread = mean(column), std(column)
    divisor = math.inf if math.isnan(spread) else spread + EPSILON
    return [None if value is None else (value - center) / divisor for value in column]


def normalized_advantages(values: Values, weights: Sequence[float], group_size: int) -> list[float]:
    """A_i = (Z_i − mean(Z)) / (std(Z) + ε) over the whole batch, of the `normalized_sums` Z; 0.0 where Z_i is None."""
    sums = normalized_sums(values, weights, group_size)
    center, spread = mean(sums), std(sums)
    return [_advantage(z, center, spread, "batch") for z in sums]


def mean(values: Sequence[float | None]) -> float:
    """Mean of what is not None; nan of nothing."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else math.nan


def std(values: Sequence[float | None]) -> float:
    """Bessel-corrected standard deviation of what is not None; nan of fewer than two (TRL's `nanstd`)."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return math.nan
    center = math.fsum(known) / len(known)
    return math.sqrt(math.fsum((value - center) ** 2 for value in known) / (len(known) - 1))
