"""What a job will meet, from the model's configuration and tokenizer alone: no weights are loaded.

Activations after Korthikanti et al. 2022 (arXiv 2205.05198, eq. 1 and section 5): about 34·s·b·h bytes a layer in 16
bits, of which checkpointing keeps the layer's input (2·s·b·h) and one layer's whole at a time. Attention's s² term is
left out: the kernels in use do not keep it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

from runner.backends.trl.model import Device, is_chat, load_tokenizer, model_and_revision, prompt_text, token_ids
from runner.backends.trl.settings import batching, uses_vllm
from runner.grpo.outlook import Memory, Outlook, Tokens
from runner.grpo.types import Example
from runner.spec.errors import Finding
from runner.spec.model import JobSpec, Lora

READ = 2000
"""Prompts that are tokenised to see how long they are."""
PER_LAYER, CHECKPOINTED = 34, 2
"""Bytes of activations for a token and a unit of width, in 16 bits."""
OPTIMIZER_BYTES = {"adamw_torch": 8, "adamw_torch_fused": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2, "sgd": 0}
"""For a trained weight in float32; 8 for others."""
NF4_BYTES = 0.56
"""A weight in 4 bits with its share of the constants."""


def outlook(job: JobSpec, train: Sequence[Example], device: Device) -> Outlook:
    """`train` may be empty: then nothing is said of prompts. The model's files must be there (`hub.model_findings`)."""
    name, revision = model_and_revision(job.model)
    try:
        config = AutoConfig.from_pretrained(name, revision=revision)
    except ValueError as error:
        first = str(error).partition("\n")[0]
        return Outlook(
            findings=[_model(f"transformers does not know this model: {first}", "Update transformers.", True)]
        )
    if findings := list(_architecture(config, job.model)):
        return Outlook(findings=findings)
    tokenizer = load_tokenizer(job)
    findings = list(_template(tokenizer, train))
    tokens = _tokens(tokenizer, config, train[:READ]) if train and not findings else None
    memory = _memory(job, config, device, tokens)
    warned = [*_untemplated(tokenizer, train), *_room(job, tokens), *_enough(job, memory)]
    return Outlook(findings=[*findings, *warned], memory=memory, tokens=tokens)


def _model(message: str, hint: str, environment: bool = False) -> Finding:
    return Finding(code="environment" if environment else "model", field="model", message=message, hint=hint)


def _architecture(config: Any, name: str) -> Iterator[Finding]:
    """Vision-language models are let through where transformers has a language model for them."""
    kinds = [str(kind) for kind in config.architectures or ()]
    writes = any(kind.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for kind in kinds)
    decodes = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not config.is_encoder_decoder
    if kinds and not (writes and decodes):
        yield _model(f"{name} is a {kinds[0]}, not a causal language model.", "GRPO trains models that write text.")


def _template(tokenizer: Any, train: Sequence[Example]) -> Iterator[Finding]:
    chat = next((example for example in train if is_chat(example)), None)
    if chat is None:
        return
    if tokenizer.chat_template is None:
        hint = "Take the instruct variant, or `format: text` with the whole prompt in `dataset.prompt`."
        message = "the prompts are messages, and the model's tokenizer has no chat template."
        yield Finding(code="model", field="dataset.format", message=message, hint=hint)
        return
    try:
        prompt_text(tokenizer, chat)
    except Exception as error:  # templates are programs of strangers: they raise what they like
        message = f"the model's chat template refuses the prompt of example {chat.id}: {error}"
        yield Finding(code="model", field="dataset", message=message, hint="Some know no system message.")


def _untemplated(tokenizer: Any, train: Sequence[Example]) -> Iterator[Finding]:
    if train and tokenizer.chat_template is not None and not any(is_chat(example) for example in train):
        yield Finding(
            code="untemplated",
            field="dataset.format",
            message="the model has a chat template, and gets the prompts as plain text, unlike what it was tuned on.",
            hint="`format: chat` puts each prompt into the template; `format: text` says that you mean it.",
            severity="warning",
        )


def _tokens(tokenizer: Any, config: Any, train: Sequence[Example]) -> Tokens:
    texts = [prompt_text(tokenizer, example) for example in train]
    ids = token_ids(tokenizer, texts, chat=is_chat(train[0]))
    lengths = [len(row) for row in ids]
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return Tokens(
        median=int(median(lengths)),
        longest=max(lengths),
        context=int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 0),
        first=[(str(tokenizer.decode([id])), id in special) for id in ids[0]],
    )


def _room(job: JobSpec, tokens: Tokens | None) -> Iterator[Finding]:
    if tokens is None:
        return
    limits = {"the model's context": tokens.context, "grpo.vllm_max_model_length": job.grpo.vllm_max_model_length or 0}
    needed = tokens.longest + job.grpo.max_completion_length
    for what, limit in limits.items():
        if limit and needed > limit:
            yield Finding(
                code="context",
                field="grpo.max_completion_length",
                message=f"the longest prompt has {tokens.longest:,} tokens; with {job.grpo.max_completion_length:,} "
                f"for the completion that is {needed:,}, more than the {limit:,} of {what}.",
                hint=f"At most {max(limit - tokens.longest, 0):,} are left for a completion; or take out long prompts.",
            )
            return


def _memory(job: JobSpec, config: Any, device: Device, tokens: Tokens | None) -> Memory:
    text = config.get_text_config()
    with torch.device("meta"):  # exact for every architecture, and takes no memory
        model = AutoModelForCausalLM.from_config(config)
    total = sum(parameter.numel() for parameter in model.parameters())
    lora = _lora_parameters(job.lora, model) if job.lora else 0
    trained = lora or total
    width = 2 if job.grpo.dtype == "bfloat16" else 4
    base = NF4_BYTES if job.lora and job.lora.quantize else width
    parts = {
        "weights": int(total * base) + lora * 4,
        "gradients": trained * width,
        "optimizer": trained * OPTIMIZER_BYTES.get(job.grpo.optim, 8) * width // 4,
    }
    if job.grpo.beta and not job.lora:
        parts["reference model"] = total * width
    there = torch.cuda.get_device_properties(0).total_memory if device == "cuda" else _machine_memory()
    if uses_vllm(job, device) and device == "cuda":
        parts["vLLM (its share)"] = int(there * job.grpo.vllm_gpu_memory_utilization)
    length = (tokens.longest if tokens else 256) + job.grpo.max_completion_length
    return Memory(parts=parts, activations=_activations(job, text, length, device), there=there, device=device)


def _activations(job: JobSpec, text: Any, length: int, device: Device) -> tuple[int, int]:
    """Least: half of the formula, for fused kernels. Most: all of it, and the logits of a micro-batch."""
    positions = batching(job.grpo).micro_batch * length
    unit = positions * text.hidden_size * (1 if device == "cuda" and job.grpo.dtype != "float32" else 2)
    layers = text.num_hidden_layers
    kept = layers * CHECKPOINTED + PER_LAYER if job.grpo.gradient_checkpointing else layers * PER_LAYER
    return unit * kept // 2, unit * kept + positions * text.vocab_size * 4


def _lora_parameters(lora: Lora, model: Any) -> int:
    """rank × (inputs + outputs) of every layer that gets an adapter."""
    chosen = None if lora.target_modules == "all-linear" else tuple(lora.target_modules)
    linear = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and (name.rpartition(".")[2] in chosen if chosen else module is not model.get_output_embeddings())
    ]
    return sum(lora.rank * (module.in_features + module.out_features) for module in linear)


def _machine_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _enough(job: JobSpec, memory: Memory) -> Iterator[Finding]:
    if memory.least <= memory.there:
        return
    ways = [
        "`lora:`" if job.lora is None else "",
        "`dtype: bfloat16`" if job.grpo.dtype != "bfloat16" else "",
        "`gradient_checkpointing: true`" if not job.grpo.gradient_checkpointing else "",
        "a smaller `micro_batch`" if batching(job.grpo).micro_batch > 1 else "",
        "a smaller `vllm_gpu_memory_utilization`" if "vLLM (its share)" in memory.parts else "",
    ]
    yield Finding(
        code="environment",
        field="grpo",
        message=f"training takes at least {memory.least / 1e9:.1f} GB, and the {memory.device} has "
        f"{memory.there / 1e9:.1f} GB.",
        hint=f"What takes less: {', '.join(way for way in ways if way) or 'a smaller model'}.",
    )
