"""The emulator's loss and its gradient against TRL's `_compute_loss`, over random settings and numbers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from runner.spec.model import Grpo

pytest.importorskip("torch")
pytest.importorskip("trl")

import torch
import trl

from emulator.lm.loss import TokenStats, row_weights, token_losses

pytestmark = [pytest.mark.lm, pytest.mark.trl, pytest.mark.filterwarnings("ignore::FutureWarning")]

CASES = 2400
WORST = 1e-5
"""Relative, of loss and of the gradient's norm."""


@pytest.fixture(scope="module")
def trainer(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from datasets import Dataset

    config = trl.GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        per_device_train_batch_size=2,
        num_generations=2,
        beta=0.1,
        use_bias_correction_kl=True,
        multi_objective_aggregation="sum_then_normalize",
    )
    rows = Dataset.from_dict({"prompt": ["a", "a"]})
    trainer = trl.GRPOTrainer(model=str(tiny_model), reward_funcs=[lambda **_: []], args=config, train_dataset=rows)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def settings(draw: random.Random) -> Grpo:
    return Grpo(
        loss_type=draw.choice(["grpo", "bnpo", "dr_grpo", "dapo", "cispo"]),
        importance_sampling_level=draw.choice(["token", "sequence"]),
        beta=draw.choice([0.0, 0.001, 0.3]),
        epsilon=draw.choice([0.1, 0.2, 0.5]),
        epsilon_high=draw.choice([None, 0.28, 5.0]),
        delta=draw.choice([None, 1.1, 4.0]),
        max_completion_length=draw.choice([7, 12]),
        generate_every=draw.choice([1, 1, 3]),
    )


def numbers(draw: random.Random) -> tuple[TokenStats, Any, float]:
    """Log-probabilities of a few completions of at most 7 tokens, some without any; advantages; all tokens drawn."""
    generator = torch.Generator().manual_seed(draw.getrandbits(40))
    rows, width = draw.randint(1, 6), draw.randint(1, 7)
    logps = (-3 * torch.rand(rows, width, generator=generator)).requires_grad_()
    distance = draw.choice([0.0, 0.1, 0.8])
    lengths = torch.randint(0, width + 1, (rows, 1), generator=generator)
    stats = TokenStats(
        logps=logps,
        old_logps=logps.detach() + distance * torch.randn(rows, width, generator=generator),
        reference_logps=logps.detach() + 0.5 * torch.randn(rows, width, generator=generator),
        mask=(torch.arange(width) < lengths).float(),
    )
    more = draw.choice([0, 0, 5, 60])
    return stats, torch.randn(rows, generator=generator), float(stats.mask.sum()) + more


def ours(stats: TokenStats, advantages: Any, tokens: float, grpo: Grpo) -> Any:
    if not grpo.beta:
        stats = TokenStats(logps=stats.logps, old_logps=stats.old_logps, reference_logps=None, mask=stats.mask)
    weights = row_weights(stats.mask, grpo, tokens / grpo.generate_every)
    return (token_losses(stats, advantages, grpo).loss * stats.mask * weights).sum()


def theirs(trainer: Any, stats: TokenStats, advantages: Any, tokens: float, grpo: Grpo) -> Any:
    trainer.loss_type, trainer.beta = grpo.loss_type, grpo.beta
    trainer.importance_sampling_level = grpo.importance_sampling_level
    trainer.epsilon_low = grpo.epsilon
    trainer.epsilon_high = grpo.epsilon if grpo.epsilon_high is None else grpo.epsilon_high
    trainer.args.delta, trainer.max_completion_length = grpo.delta, grpo.max_completion_length
    trainer.args.steps_per_generation = grpo.generate_every
    entropies = torch.zeros_like(stats.mask)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (stats.logps, entropies, None)
    ids = torch.zeros_like(stats.mask, dtype=torch.int64)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": ids,
        "completion_mask": stats.mask,
        "advantages": advantages,
        "num_items_in_batch": torch.tensor(tokens),
        "old_per_token_logps": stats.old_logps,
        "ref_per_token_logps": stats.reference_logps,
    }
    return trainer._compute_loss(trainer.model, inputs)


def test_loss_and_gradient_are_trls_over_thousands_of_settings(trainer: Any) -> None:
    draw, seen, worst = random.Random(3), set[tuple[Any, ...]](), (0.0, Grpo())
    for _ in range(CASES):
        grpo, (stats, advantages, tokens) = settings(draw), numbers(draw)
        losses = [ours(stats, advantages, tokens, grpo), theirs(trainer, stats, advantages, tokens, grpo)]
        gradients = [torch.autograd.grad(loss, stats.logps)[0] for loss in losses]
        trainer._metrics["train"].clear()
        # a loss is a sum of terms that may cancel: what rounding may cost is relative to them
        scale = max(1e-3, float(losses[1].detach().abs()), float(gradients[1].norm()))
        off = max(float((losses[0] - losses[1]).detach().abs()), float((gradients[0] - gradients[1]).norm())) / scale
        worst = max(worst, (off, grpo), key=lambda pair: pair[0])
        seen.add((grpo.loss_type, grpo.importance_sampling_level, grpo.beta, grpo.delta, grpo.generate_every))
    assert worst[0] <= WORST, worst
    assert len(seen) > 170, "of 180 combinations"
