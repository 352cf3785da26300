"""Completions from a checkpoint or the base model, through transformers: to look at, not to train on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, set_seed

from runner.backends.trl.model import Device, load_tokenizer, load_values, model_and_revision
from runner.grpo.types import Completion
from runner.spec.model import JobSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def generate(job: JobSpec, at: Path | None, prompts: Sequence[str], n: int, device: Device) -> list[list[Completion]]:
    """n completions of each prompt text, sampled as the job trains, from the job's seed."""
    tokenizer = load_tokenizer(job)
    model = _load(job, at, device)
    set_seed(job.seed)
    return [_complete(job, model, tokenizer, prompt, n) for prompt in prompts]


def _load(job: JobSpec, at: Path | None, device: Device) -> Any:
    """A LoRA checkpoint holds only the adapter: the base model goes under it."""
    base, _ = model_and_revision(job.model)
    values = load_values(job)
    adapter = at is not None and (at / "adapter_config.json").exists()
    if at is None or adapter:
        model: Any = AutoModelForCausalLM.from_pretrained(base, **values)
    else:
        model = AutoModelForCausalLM.from_pretrained(at, dtype=values["dtype"])
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(at))
    return model.to(device).eval()


def _complete(job: JobSpec, model: Any, tokenizer: PreTrainedTokenizerBase, prompt: str, n: int) -> list[Completion]:
    rendered = bool(tokenizer.bos_token) and prompt.startswith(str(tokenizer.bos_token))
    encoded = tokenizer(prompt, return_tensors="pt", add_special_tokens=not rendered).to(model.device)
    ends = _end_ids(model, tokenizer)
    with torch.inference_mode():
        output = model.generate(
            **encoded, num_return_sequences=n, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, **_sampling(job)
        )
    return [_completion(tokenizer, ids, ends) for ids in output[:, encoded["input_ids"].shape[1] :].tolist()]


def _sampling(job: JobSpec) -> dict[str, Any]:
    grpo = job.grpo
    return {
        "do_sample": True,
        "max_new_tokens": grpo.max_completion_length,
        "temperature": grpo.temperature,
        "top_p": grpo.top_p,
        "top_k": grpo.top_k,
        "min_p": grpo.min_p,
        "repetition_penalty": grpo.repetition_penalty,
    }


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
        finish="length" if length is None else "eos",
    )
