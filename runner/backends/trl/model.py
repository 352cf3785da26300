"""Loading what the job names: model id and revision, dtype, tokenizer, and the text a prompt becomes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from runner.data.examples import Example
from runner.spec.model import JobSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Device = Literal["cpu", "cuda"]


def device() -> Device | None:
    """`cpu` where RUNNER_DEVICE insists on it, else the GPU, else None."""
    if os.environ.get("RUNNER_DEVICE") == "cpu":
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else None


def model_and_revision(name: str) -> tuple[str, str | None]:
    """A folder as it stands; a hub id may carry `@revision`."""
    if Path(name).is_dir():
        return name, None
    model, _, revision = name.partition("@")
    return model, revision or None


def local_folder(name: str) -> Path | None:
    """Where the model lies on this machine: the folder, or the hub's cache. Asks no network."""
    model, revision = model_and_revision(name)
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import errors, try_to_load_from_cache

    try:
        found = try_to_load_from_cache(model, "config.json", revision=revision)
    except errors.HFValidationError:  # no hub id either
        return None
    return Path(found).parent if isinstance(found, str) else None


def load_values(job: JobSpec) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained`, for the policy and for the reference."""
    _, revision = model_and_revision(job.model)
    dtype = "float32" if job.grpo.dtype == "auto" else job.grpo.dtype
    values: dict[str, Any] = {"dtype": dtype} | ({"revision": revision} if revision else {})
    if job.lora is not None and job.lora.quantize is not None:
        values["quantization_config"] = _quantization()
    return values


def _quantization() -> Any:
    """QLoRA as in its paper: 4-bit NormalFloat, the constants quantized too, arithmetic in bfloat16."""
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def load_tokenizer(job: JobSpec) -> PreTrainedTokenizerBase:
    """Left-padding, as generation needs; the pad token is the end token where the model has none."""
    from transformers import AutoTokenizer

    model, revision = model_and_revision(job.model)
    tokenizer = AutoTokenizer.from_pretrained(model, revision=revision or "main", padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def is_chat(example: Example) -> bool:
    return isinstance(example.prompt, list)


def prompt_text(tokenizer: PreTrainedTokenizerBase, example: Example) -> str:
    """The exact text the model sees. Messages go through the chat template; a prefilled assistant turn stays open."""
    if isinstance(example.prompt, str):
        return example.prompt
    messages = cast(list[dict[str, str]], example.prompt)
    prefilled = messages[-1]["role"] == "assistant"
    return str(
        tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=not prefilled, continue_final_message=prefilled
        )
    )


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, chat: bool) -> list[list[int]]:
    """Rendered chat text has its special tokens already; plain text gets those the tokenizer adds."""
    return tokenizer(texts, add_special_tokens=not chat)["input_ids"]
