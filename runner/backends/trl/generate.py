"""Completions from a checkpoint or the base model, through transformers: to look at, not to train on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, set_seed
from transformers.utils.logging import disable_progress_bar

from runner.backends.trl.model import (
    Device,
    is_chat,
    load_tokenizer,
    load_values,
    model_and_revision,
    prompt_text,
    token_ids,
)
from runner.backends.trl.settings import greedy_or
from runner.grpo.types import Completion, Example
from runner.spec.model import Grpo, JobSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def generate(
    job: JobSpec, at: Path | None, examples: Sequence[Example], n: int, device: Device
) -> list[list[Completion]]:
    """n completions of each example, sampled as the job trains, from the job's seed."""
    disable_progress_bar()
    tokenizer = load_tokenizer(job)
    model = _load(job, at, device)
    set_seed(job.seed)
    return [_complete(job, model, tokenizer, example, n) for example in examples]


def _load(job: JobSpec, at: Path | None, device: Device) -> Any:
    """A LoRA checkpoint holds only the adapter: the base model goes under it. An adapter that the job goes on from is
    part of what it begins with.
    """
    base, _ = model_and_revision(job.model)
    values = load_values(job)
    adapter = str(at) if at is not None and (at / "adapter_config.json").exists() else None
    if at is None and job.lora is not None:
        adapter = job.lora.adapter
    if at is None or adapter:
        model: Any = AutoModelForCausalLM.from_pretrained(base, **values)
    else:
        model = AutoModelForCausalLM.from_pretrained(at, dtype=values["dtype"])
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    quantized = "quantization_config" in values  # is on the GPU already, and may not be moved
    return model.eval() if quantized else model.to(device).eval()


def _complete(
    job: JobSpec, model: Any, tokenizer: PreTrainedTokenizerBase, example: Example, n: int
) -> list[Completion]:
    [ids] = token_ids(tokenizer, [prompt_text(tokenizer, example)], chat=is_chat(example))
    prompt = torch.tensor([ids], device=model.device)
    ends = _end_ids(model, tokenizer)
    greedy = job.grpo.temperature == 0
    with torch.inference_mode():
        output = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            num_return_sequences=1 if greedy else n,
            max_new_tokens=job.grpo.max_completion_length,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
            **_sampling(job.grpo),
        )
    drawn = [_completion(tokenizer, row, ends) for row in output[:, len(ids) :].tolist()]
    return drawn * n if greedy else drawn


def _sampling(grpo: Grpo) -> dict[str, Any]:
    drawn = {name: getattr(grpo, name) for name in ("temperature", "top_p", "top_k", "min_p")}
    return greedy_or(drawn, grpo.temperature) | {"repetition_penalty": grpo.repetition_penalty}


def _end_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that ends a completion, as TRL collects them."""
    declared = model.generation_config.eos_token_id
    ids = declared if isinstance(declared, list) else [declared]
    return sorted({id for id in [*ids, tokenizer.eos_token_id] if id is not None})


def _completion(tokenizer: PreTrainedTokenizerBase, ids: list[int], ends: list[int]) -> Completion:
    """Up to and including the first end token; what follows is padding."""
    length = next((i + 1 for i, id in enumerate(ids) if id in ends), None)
    kept = ids[:length]
    return Completion(
        text=str(tokenizer.decode(kept, skip_special_tokens=True)),
        n_tokens=len(kept),
        ids=tuple(kept),
        finish="length" if length is None else "eos",
    )
