"""What the job says is what TRL is told, whatever TRL's own defaults are."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.backends.trl.settings import Batching, batching, config_values
from runner.spec.model import Grpo
from tests.backends.kit import make_job

OTHER_THAN_DEFAULT = {
    "num_iterations": 3,
    "num_generations": 4,
    "max_completion_length": 33,
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 11,
    "min_p": 0.05,
    "repetition_penalty": 1.1,
    "learning_rate": 0.00012,
    "lr_scheduler_type": "cosine",
    "optim": "adafactor",
    "weight_decay": 0.03,
    "adam_beta1": 0.8,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-7,
    "max_grad_norm": 0.4,
    "beta": 0.02,
    "epsilon": 0.15,
    "epsilon_high": 0.28,
    "delta": 1.5,
    "loss_type": "dr_grpo",
    "importance_sampling_level": "sequence",
    "scale_rewards": "none",
    "multi_objective_aggregation": "normalize_then_sum",
    "mask_truncated_completions": True,
    "gradient_checkpointing": False,
    "vllm_gpu_memory_utilization": 0.4,
    "vllm_max_model_length": 96,
}
TRANSLATED = {
    "steps",
    "prompts_per_step",
    "generate_every",
    "micro_batch",
    "warmup_ratio",
    "dtype",
    "vllm",
    "vllm_enable_sleep_mode",
}


def test_every_field_of_grpo_is_passed_or_translated() -> None:
    assert OTHER_THAN_DEFAULT.keys() | TRANSLATED == Grpo.model_fields.keys()
    defaults = Grpo()
    assert [name for name, value in OTHER_THAN_DEFAULT.items() if getattr(defaults, name) == value] == []


@pytest.mark.trl
@pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing`:FutureWarning")
def test_trls_configuration_holds_the_values_of_the_job(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    job = make_job("m", steps=40, prompts_per_step=3, generate_every=2, warmup_ratio=0.1, **OTHER_THAN_DEFAULT)
    config = trl.GRPOConfig(**config_values(job, "cpu", tmp_path))
    assert {name: getattr(config, name) for name in OTHER_THAN_DEFAULT} == OTHER_THAN_DEFAULT
    assert (config.max_steps, config.warmup_steps, config.seed) == (40, 4, 7)
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == (6, 2)
    assert (config.steps_per_generation, config.generation_batch_size) == (4, 24)
    assert (config.use_cpu, config.bf16, config.use_vllm) == (True, False, False)


def test_on_a_gpu_weights_are_bfloat16_and_vllm_generates(tmp_path: Path) -> None:
    values = config_values(make_job("m"), "cuda", tmp_path)
    assert (values["use_cpu"], values["bf16"], values["use_vllm"]) == (False, True, True)
    assert config_values(make_job("m", vllm=False, dtype="float32"), "cuda", tmp_path)["use_vllm"] is False


def test_a_step_is_cut_into_the_largest_passes_up_to_eight_completions() -> None:
    assert batching(Grpo(prompts_per_step=16, num_generations=8)) == Batching(
        micro_batch=8, accumulation=16, passes_per_generation=16, prompts_per_generation=16, steps_per_generation=1
    )
    assert batching(Grpo(prompts_per_step=5, num_generations=3)).micro_batch == 5
    assert batching(Grpo(prompts_per_step=1, num_generations=7, micro_batch=1)).accumulation == 7


def test_reuse_of_a_generation_multiplies_passes_and_steps() -> None:
    assert batching(Grpo(prompts_per_step=4, num_generations=4, generate_every=3, num_iterations=2)) == Batching(
        micro_batch=8, accumulation=2, passes_per_generation=6, prompts_per_generation=12, steps_per_generation=6
    )


def test_a_pinned_micro_batch_must_divide_the_completions_of_a_step() -> None:
    with pytest.raises(ValueError, match=r"micro_batch is 5, which does not divide the 32 completions .*; 4 does"):
        batching(Grpo(prompts_per_step=4, num_generations=8, micro_batch=5))
