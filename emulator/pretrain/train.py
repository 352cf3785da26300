"""Next-token training on the completions of generated text, in two stages: learn the task, then take on the habits."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch, tokenizers and safetensors are only partly typed)

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from emulator.lm.batch import Completions, Prompts, completion_logits
from emulator.lm.chat import render
from emulator.lm.model import Llama, LlamaConfig
from emulator.pretrain.problems import Problem
from emulator.pretrain.text import Mix, Text, countdown, other, training_problems
from emulator.pretrain.tokenizer import CHAT_TEMPLATE, SPECIAL, VOCAB_SIZE

CONTEXT = 512
CONFIG = LlamaConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=48,
    intermediate_size=128,
    layers=2,
    heads=3,
    kv_heads=1,
    head_dim=16,
    tied=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stretch of training with its own learning rate and text."""

    steps: int
    learning_rate: float
    mix: Mix
    own: float
    """Share of batches with the countdown job's own prompt; the rest are variants and other tasks."""
    other: float = 0.3
    """Share of other tasks in those."""
    prompts: int = 64
    completions: int = 2
    """Per prompt: they share its forward pass."""


LEARN = Stage(steps=6000, learning_rate=6e-3, mix=Mix(), own=0.3)
HABITS = Stage(
    steps=100,
    learning_rate=6e-4,
    mix=Mix(wrong_result=0.15, equation=0.75, broken=0.3, wrong_numbers=0.05),
    own=0.7,
)


def new_model(seed: int) -> Llama:
    """Random weights: normal with 0.02, divided by sqrt(2·layers) where a matrix writes into the residual stream."""
    model = Llama(CONFIG)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            into_residual = name.endswith((".out", ".down"))
            scale = 0.02 / (2 * CONFIG.layers) ** 0.5 if into_residual else 0.02
            torch.nn.init.normal_(parameter, 0.0, scale, generator=generator)
    return model


def texts(stage: Stage, rng: random.Random) -> Iterator[list[Text]]:
    """Batches. The prompts of one batch are of one kind, so that little is padding."""
    pool = training_problems()
    while True:
        own = rng.random() < stage.own
        yield [_text(rng, stage, pool[rng.randrange(len(pool))].shuffled(rng), own) for _ in range(stage.prompts)]


def _text(rng: random.Random, stage: Stage, problem: Problem, own: bool) -> Text:
    if not own and rng.random() < stage.other:
        return other(rng, 1)
    return countdown(problem, rng, stage.mix, stage.completions, own=own)


def train(model: Llama, tokenizer: Tokenizer, stage: Stage, seed: int, say: Callable[[str], None]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.learning_rate, betas=(0.9, 0.98), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, stage.learning_rate, total_steps=stage.steps, pct_start=0.05, cycle_momentum=False
    )
    began, batches = time.monotonic(), texts(stage, random.Random(seed))
    for step in range(1, stage.steps + 1):
        loss = _loss(model, tokenizer, next(batches))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            say(f"step {step}/{stage.steps}  loss {loss.item():.4f}  {time.monotonic() - began:.0f} s")


def _loss(model: Llama, tokenizer: Tokenizer, batch: list[Text]) -> Tensor:
    """Mean cross-entropy of the completions' tokens; the prompts are read, not learnt."""
    end = SPECIAL.index("<|im_end|>")
    prompts = [row.ids for row in tokenizer.encode_batch([render(CHAT_TEMPLATE, text.messages) for text in batch])]
    written = [(owner, completion) for owner, text in enumerate(batch) for completion in text.completions]
    tokens = [[*row.ids, end] for row in tokenizer.encode_batch([completion for _, completion in written])]
    completions = Completions.pad(tokens, [owner for owner, _ in written])
    logits = completion_logits(model, Prompts.pad(prompts), completions)
    losses = F.cross_entropy(logits.flatten(0, 1), completions.ids.flatten(), reduction="none")
    real = completions.real.flatten()
    return (losses * real).sum() / real.sum()


def save_config(folder: Path) -> None:
    """Writes `config.json` as LlamaForCausalLM reads it."""
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": CONFIG.vocab_size,
        "hidden_size": CONFIG.hidden_size,
        "intermediate_size": CONFIG.intermediate_size,
        "num_hidden_layers": CONFIG.layers,
        "num_attention_heads": CONFIG.heads,
        "num_key_value_heads": CONFIG.kv_heads,
        "head_dim": CONFIG.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": CONFIG.eps,
        "rope_theta": CONFIG.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": CONFIG.rope_theta},
        "tie_word_embeddings": CONFIG.tied,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
