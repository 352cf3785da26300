"""The GRPO loss as TRL 1.16 computes it (`GRPOTrainer._compute_loss`), from the log-probabilities of whole groups."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from runner.spec.model import Grpo


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStats:
    """What the loss takes of N completions of at most T tokens."""

    logps: Tensor
    """log π(o_it), with gradient. [N, T]"""
    old_logps: Tensor
    """The same when the completions were drawn; no gradient. [N, T]"""
    reference_logps: Tensor | None
    """The same under the frozen reference; needed if β ≠ 0. [N, T]"""
    mask: Tensor
    """1 for tokens that count, 0 for padding. [N, T]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLosses:
    """The per-token terms, before they are averaged."""

    loss: Tensor
    """[N, T]"""
    ratio: Tensor
    """ρ, as it is clipped: [N, T], or [N, 1] for sequence-level weights."""
    kl: Tensor | None
    """[N, T]; None without a reference."""


def token_losses(stats: TokenStats, advantages: Tensor, grpo: Grpo) -> TokenLosses:
    """The loss of each token.

    ρ_it = exp(logp_it − old_it), or for `sequence` exp of its mean over the completion's tokens (GSPO).
    grpo, bnpo, dr_grpo, dapo: l = −min(min(ρ, δ)·A, clip(ρ, 1−ε, 1+ε_high)·A);
    cispo: l = −min(ρ, ε_high)·A·logp, with no gradient through the weight.
    With β ≠ 0: l += β·k, where k = ρ·(e^d − d − 1), d = ref − logp (k3, with TRL's bias correction by ρ).
    """
    ratio = _ratio(stats, grpo)
    low, high = grpo.epsilon, grpo.epsilon if grpo.epsilon_high is None else grpo.epsilon_high
    a = advantages.unsqueeze(1)
    if grpo.loss_type == "cispo":
        loss = -ratio.clamp(max=high).detach() * a * stats.logps
    else:
        capped = ratio if grpo.delta is None else ratio.clamp(max=grpo.delta)
        loss = -torch.min(capped * a, ratio.clamp(1 - low, 1 + high) * a)
    kl = None
    if stats.reference_logps is not None:
        d = stats.reference_logps - stats.logps
        kl = (d.exp() - d - 1) * ratio
        loss = loss + grpo.beta * kl
    return TokenLosses(loss=loss, ratio=ratio, kl=kl)


def _ratio(stats: TokenStats, grpo: Grpo) -> Tensor:
    log_ratio = stats.logps - stats.old_logps
    if grpo.importance_sampling_level == "sequence":
        log_ratio = ((log_ratio * stats.mask).sum(-1) / stats.mask.sum(-1).clamp(min=1.0)).unsqueeze(1)
    return log_ratio.exp()


def row_weights(mask: Tensor, grpo: Grpo, tokens: float, passes: Tensor | None = None) -> Tensor:
    """Factor [N, 1] of each completion's summed token losses: the loss is Σ_i w_i Σ_t l_it·m_it.

    grpo: 1 / (N · tokens of i); dr_grpo: 1 / (N · max_completion_length); bnpo: 1 / (passes · tokens of i's pass),
    where `passes` [N] numbers the forward passes that TRL makes (None: one for all); dapo, cispo: 1 / `tokens`, which
    are those of the generation batch, divided by the steps that share it. Because the weights are known beforehand,
    the completions can be cut into other chunks without changing the loss.
    """
    lengths, rows = mask.sum(1, keepdim=True), len(mask)
    if grpo.loss_type == "grpo":
        return 1.0 / (rows * lengths.clamp(min=1.0))
    if grpo.loss_type == "dr_grpo":
        return torch.full_like(lengths, 1.0 / (rows * grpo.max_completion_length))
    if grpo.loss_type == "bnpo":
        number = torch.zeros(rows, dtype=torch.int64) if passes is None else passes
        sums = torch.zeros(int(number.max()) + 1).index_add_(0, number, lengths.squeeze(1))
        return (1.0 / (len(sums) * sums.clamp(min=1.0)))[number].unsqueeze(1)
    return torch.full_like(lengths, 1.0) / max(tokens, 1.0 / grpo.generate_every)


def clip_metrics(ratio: Tensor, advantages: Tensor, mask: Tensor, grpo: Grpo) -> dict[str, float]:
    """Shares of tokens (sequences, for sequence-level ratios) whose ratio was clipped, under TRL's names."""
    high = grpo.epsilon if grpo.epsilon_high is None else grpo.epsilon_high
    a = advantages.unsqueeze(1)
    if grpo.loss_type == "cispo":
        return {"cispo_clip_ratio": masked_mean(((ratio > high) & (a > 0)).float(), mask)}
    below = ((ratio < 1 - grpo.epsilon) & (a < 0)).float()
    above = ((ratio > 1 + high) & (a > 0)).float()
    return {
        "clip_ratio/low_mean": masked_mean(below, mask),
        "clip_ratio/low_min": _row_means(below, mask).min().item(),
        "clip_ratio/high_mean": masked_mean(above, mask),
        "clip_ratio/high_max": _row_means(above, mask).max().item(),
        "clip_ratio/region_mean": masked_mean(below + above, mask),
    }


def masked_mean(values: Tensor, mask: Tensor) -> float:
    """Mean over the tokens that count; over all rows where there is one value a row."""
    if values.shape[1] == 1 and mask.shape[1] != 1:
        return values.mean().item()
    return ((values * mask).sum() / mask.sum().clamp(min=1.0)).item()


def _row_means(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum(1) / mask.sum(1).clamp(min=1.0)
