"""Small builders for the tests of the `lm` policy."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch

from emulator.lm.attention import Texts
from emulator.lm.drawn import Drawn
from emulator.lm.model import Llama, LlamaConfig
from emulator.lm.policy import LmPolicy
from emulator.policy import Sampling
from runner.data.examples import Example, Message
from runner.spec.model import Grpo, Lora

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "emulator" / "weights"
COUNTDOWN = ROOT / "jobs" / "examples" / "countdown"
CHAT: list[Message] = [
    {"role": "system", "content": "You first reason step by step, then answer."},
    {"role": "user", "content": "Using the numbers [3, 5, 2], make an expression that equals 17."},
    {"role": "assistant", "content": "Let me solve this step by step.\n<think>"},
]


def evaluate(text: str) -> tuple[float, list[float]]:
    """The example job's own reading of an expression."""
    spec = importlib.util.spec_from_file_location("countdown_rewards", COUNTDOWN / "rewards.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.evaluate(text)


def random_model(**changes: object) -> Llama:
    sizes = dict(
        vocab_size=64, hidden_size=32, intermediate_size=48, layers=2, heads=4, kv_heads=2, head_dim=8, tied=False
    )
    model = Llama(LlamaConfig(**(sizes | changes)))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0.0, 0.3, generator=generator)
    return model


def plain_logits(model: Llama, ids: Sequence[int]) -> torch.Tensor:
    """One text, no padding, no shared prefix. [length, vocabulary]"""
    real = torch.ones(1, len(ids), dtype=torch.bool)
    return model.logits(model(torch.tensor(list(ids)), Texts(model.config, real)))


def examples(n: int = 3) -> list[Example]:
    asked: list[Message] = [{"role": "user", "content": f"Make {10 + i} from 2 3 5."} for i in range(n)]
    return [Example(id=i, prompt=[CHAT[0], user, CHAT[2]], columns={}) for i, user in enumerate(asked)]


def policy(lora: Lora | None = None, **settings: object) -> LmPolicy:
    defaults: dict[str, object] = dict(steps=10, learning_rate=1e-3, max_completion_length=12)
    return LmPolicy(WEIGHTS, Grpo.model_validate(defaults | settings), lora=lora)


def draw(of: LmPolicy, seed: int = 0, groups: int = 3) -> Drawn:
    seeds = [[seed + 100 * g + i for i in range(4)] for g in range(groups)]
    return of.sample(examples(groups), Sampling(max_completion_length=12), seeds)


ADVANTAGES = [1.0, -1.0, 0.5, -0.5] * 3
