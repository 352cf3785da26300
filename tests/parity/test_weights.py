"""The emulator's updates against TRL's whole trainer: same rollouts, same optimizer, same weights afterwards."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from runner.backends.trl.settings import batching
from runner.grpo.advantages import advantages, weighted_rewards
from runner.spec.model import Grpo, Lora

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("peft")
pytest.importorskip("transformers")

import peft
import torch
import trl

from emulator.backend import SHIPPED
from emulator.lm.drawn import Drawn
from emulator.lm.model import load_model
from emulator.lm.policy import LmPolicy

pytestmark = [pytest.mark.lm, pytest.mark.trl, pytest.mark.filterwarnings("ignore::FutureWarning")]

STEPS, PROMPTS, GENERATIONS, PARTS = 5, 2, 4, 2
LORA = Lora(rank=4, alpha=8.0)


def rollouts(batch: int) -> tuple[list[list[int]], list[list[int]], list[float]]:
    """Prompts, completions (some ended, some cut) and rewards of a generation batch, group after group."""
    generator = torch.Generator().manual_seed(batch)
    prompts, completions = [], []
    for group in range(PROMPTS * PARTS):
        prompt = torch.randint(5, 380, (6 + 3 * group,), generator=generator).tolist()
        for row in range(GENERATIONS):
            body = torch.randint(5, 380, (3 + 2 * row,), generator=generator).tolist()
            prompts.append(prompt)
            completions.append(body if row == 0 else [*body, 2])
    rewards = torch.randint(0, 9, (len(prompts),), generator=generator) / 8
    return prompts, completions, rewards.tolist()


CASES = {
    "dapo": Grpo(loss_type="dapo", generate_every=PARTS, num_iterations=2, beta=0.05),
    "grpo": Grpo(loss_type="grpo", scale_rewards="batch", mask_truncated_completions=True, epsilon_high=0.3),
    "gspo": Grpo(loss_type="dr_grpo", importance_sampling_level="sequence", num_iterations=2, delta=1.5),
    "bnpo": Grpo(loss_type="bnpo", micro_batch=4, generate_every=PARTS, mask_truncated_completions=True),
}


def with_common(grpo: Grpo) -> Grpo:
    update: dict[str, Any] = {
        "steps": STEPS,
        "prompts_per_step": PROMPTS * PARTS // grpo.generate_every,
        "num_generations": GENERATIONS,
        "max_completion_length": 16,
        "temperature": 0.9,
        "learning_rate": 1e-4,
        "warmup_ratio": 0.2,
        "weight_decay": 0.01,
        "max_grad_norm": 0.5,
    }
    return grpo.model_copy(update=update)


def trl_trainer(grpo: Grpo, lora: Lora | None, folder: Path) -> Any:
    from datasets import Dataset

    cut = batching(grpo)
    config = trl.GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        max_steps=STEPS,
        per_device_train_batch_size=cut.micro_batch,
        gradient_accumulation_steps=cut.accumulation,
        steps_per_generation=cut.passes_per_generation,
        num_iterations=grpo.num_iterations,
        num_generations=grpo.num_generations,
        max_completion_length=grpo.max_completion_length,
        temperature=grpo.temperature,
        learning_rate=grpo.learning_rate,
        lr_scheduler_type=grpo.lr_scheduler_type,
        warmup_steps=1,
        weight_decay=grpo.weight_decay,
        max_grad_norm=grpo.max_grad_norm,
        optim=grpo.optim,
        beta=grpo.beta,
        epsilon=grpo.epsilon,
        epsilon_high=grpo.epsilon_high,
        delta=grpo.delta,
        loss_type=grpo.loss_type,
        importance_sampling_level=grpo.importance_sampling_level,
        scale_rewards=grpo.scale_rewards,
        mask_truncated_completions=grpo.mask_truncated_completions,
        use_bias_correction_kl=True,
        model_init_kwargs={"dtype": torch.float32},
    )
    adapter = None
    if lora is not None:
        adapter = peft.LoraConfig(
            task_type="CAUSAL_LM", r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules="all-linear"
        )
    return trl.GRPOTrainer(
        model=str(SHIPPED),
        reward_funcs=[lambda **_: []],
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["a"] * 64}),
        peft_config=adapter,
    )


def train_theirs(grpo: Grpo, lora: Lora | None, start: dict[str, Any], folder: Path, monkeypatch: Any) -> Any:
    """TRL's trainer after STEPS steps; only what draws at random is replaced: texts, rewards and the shuffle."""
    trainer = trl_trainer(grpo, lora, folder)
    if lora is not None:
        with torch.no_grad():
            for name, parameter in trainer.model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(start[name.replace(".default", "")])
    drawn: list[int] = []

    def generate(_: Any) -> Any:
        drawn.append(len(drawn))
        prompts, completions, _ = rollouts(drawn[-1])
        return prompts, completions, None, ["x"] * len(prompts), None, {}, None, []

    trainer._generate = generate
    trainer._calculate_rewards = lambda *_: torch.tensor(rollouts(drawn[-1])[2]).unsqueeze(1)
    monkeypatch.setattr("trl.trainer.grpo_trainer.shuffle_sequence_dict", lambda batch: batch)
    trainer.train()
    return trainer


def train_ours(it: LmPolicy, grpo: Grpo) -> None:
    whole = PROMPTS * PARTS * GENERATIONS
    size = whole // grpo.generate_every
    drawn, scored = None, list[float]()
    for step in range(1, STEPS + 1):
        batch, position = divmod(step - 1, grpo.generate_every * grpo.num_iterations)
        if position == 0:
            prompts, completions, rewards = rollouts(batch)
            owner = [row // GENERATIONS for row in range(whole)]
            drawn = Drawn(prompts[::GENERATIONS], completions, owner, grpo.temperature, [])
            scored = advantages(weighted_rewards([[r] for r in rewards], [1.0]), GENERATIONS, grpo.scale_rewards)
        part = position % grpo.generate_every
        rows = list(range(part * size, (part + 1) * size))
        it.update(drawn, scored, step, rows)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("name", CASES)
def test_weights_after_five_steps_are_those_of_trls_trainer(
    name: str, lora: Lora | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grpo = with_common(CASES[name])
    it = LmPolicy(SHIPPED, grpo, lora=lora)
    start = {key: value.detach().clone() for key, value in it._trained().items()}
    trainer = train_theirs(grpo, lora, start, tmp_path / "trl", monkeypatch)
    train_ours(it, grpo)
    moved = worst = 0.0
    theirs = trained_of(trainer, lora, tmp_path / "saved")
    for key, mine in it._trained().items():
        moved = max(moved, float((mine - start[key]).detach().abs().max()))
        worst = max(worst, float((mine - theirs[key]).detach().abs().max()))
    assert moved > 1e-4
    assert worst <= 1e-5


def trained_of(trainer: Any, lora: Lora | None, folder: Path) -> dict[str, Any]:
    """What TRL has trained, under our names."""
    if lora is not None:
        return {name.replace(".default", ""): value for name, value in trainer.model.named_parameters()}
    trainer.model.save_pretrained(folder)
    return dict(load_model(folder).named_parameters())
