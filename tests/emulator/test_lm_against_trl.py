"""The `lm` policy against transformers and TRL: same logits, same text, same loss."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("torch")
pytest.importorskip("trl")

import torch
import transformers as theirs

from emulator.lm.loss import TokenStats, row_weights, token_losses
from emulator.lm.model import load_model
from emulator.policy import Sampling
from runner.data.examples import Example, Message
from runner.spec.model import Grpo
from tests.emulator.lm_builders import ADVANTAGES, CHAT, WEIGHTS, draw, examples, plain_logits, policy

pytestmark = [pytest.mark.lm, pytest.mark.trl]


def test_shipped_weights_give_transformers_logits() -> None:
    reference = theirs.AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32)
    ids = list(range(5, 60))
    with torch.no_grad():
        expected = reference(torch.tensor([ids])).logits[0]
        torch.testing.assert_close(plain_logits(load_model(WEIGHTS), ids), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_any_small_llama_folder_gives_transformers_logits(tmp_path: Path, tied: bool) -> None:
    config = theirs.LlamaConfig(
        vocab_size=128,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=16,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    reference = theirs.LlamaForCausalLM(config)
    reference.save_pretrained(tmp_path)
    ids = list(range(40))
    with torch.no_grad():
        expected = reference(torch.tensor([ids])).logits[0]
        torch.testing.assert_close(plain_logits(load_model(tmp_path), ids), expected, atol=1e-4, rtol=1e-5)


def test_greedy_completions_are_those_of_transformers_generate() -> None:
    reference = theirs.AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32)
    drawn = policy().sample(examples(4), Sampling(max_completion_length=30, temperature=0.0), [[0], [0], [0], [0]])
    for prompt, tokens in zip(drawn.prompts, drawn.tokens, strict=True):
        ids = torch.tensor([prompt])
        out = reference.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=30)
        assert out[0, len(prompt) :].tolist() == tokens


@pytest.mark.parametrize("messages", [CHAT, CHAT[1:2]])
def test_chat_text_and_tokens_are_those_of_transformers(messages: list[Message]) -> None:
    tokenizer = theirs.AutoTokenizer.from_pretrained(WEIGHTS)
    prefilled = messages[-1]["role"] == "assistant"
    options = {"continue_final_message": prefilled, "add_generation_prompt": not prefilled}
    text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    it = policy()
    assert it.prompt(Example(id=0, prompt=messages, columns={})) == text
    drawn = it.sample([Example(id=0, prompt=messages, columns={})], Sampling(max_completion_length=2), [[0]])
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == drawn.prompts[0]
    assert tokenizer.eos_token_id in it._tokens.end


def test_a_saved_policy_opens_in_transformers(tmp_path: Path) -> None:
    it = policy()
    it.update(draw(it), ADVANTAGES, 1)
    it.save(tmp_path)
    reference = theirs.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    theirs.AutoTokenizer.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(
            plain_logits(it.model, range(20)), reference(torch.arange(20).unsqueeze(0)).logits[0], atol=1e-5, rtol=1e-5
        )


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    settings = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        use_cpu=True,
        bf16=False,
        report_to="none",
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=6,
        beta=0.1,
    )
    rows = Dataset.from_list([{"prompt": "a"}] * 4)
    trainer = GRPOTrainer(model=str(WEIGHTS), reward_funcs=lambda **_: [], args=settings, train_dataset=rows)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def numbers() -> tuple[TokenStats, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logps = -torch.rand(4, 6, generator=generator)
    stats = TokenStats(
        logps=logps.requires_grad_(),
        old_logps=logps.detach() + 0.4 * torch.randn(4, 6, generator=generator),
        reference_logps=logps.detach() + 0.4 * torch.randn(4, 6, generator=generator),
        mask=(torch.arange(6) < torch.tensor([[6], [3], [1], [0]])).float(),
    )
    return stats, torch.tensor([1.0, -0.7, 0.5, -1.5])


def trl_loss(trainer: Any, grpo: Grpo, stats: TokenStats, advantages: torch.Tensor) -> torch.Tensor:
    trainer.loss_type, trainer.beta = grpo.loss_type, grpo.beta
    trainer.importance_sampling_level = grpo.importance_sampling_level
    trainer.epsilon_low, trainer.epsilon_high = grpo.epsilon, grpo.epsilon_high or grpo.epsilon
    trainer.args.delta = grpo.delta
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (stats.logps, torch.zeros(4, 6), None)
    ids = torch.zeros(4, 6, dtype=torch.int64)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": ids,
        "completion_mask": stats.mask,
        "advantages": advantages,
        "num_items_in_batch": stats.mask.sum(),
        "old_per_token_logps": stats.old_logps,
        "ref_per_token_logps": stats.reference_logps,
    }
    return trainer._compute_loss(trainer.model, inputs)


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"beta": 0.1},
        {"epsilon_high": 0.3, "delta": 1.1},
        {"importance_sampling_level": "sequence", "beta": 0.05},
    ],
)
def test_loss_and_gradient_are_trls(trainer: Any, loss_type: str, change: dict[str, object]) -> None:
    grpo = Grpo.model_validate({"loss_type": loss_type, "max_completion_length": 6} | change)
    stats, advantages = numbers()
    without = TokenStats(logps=stats.logps, old_logps=stats.old_logps, reference_logps=None, mask=stats.mask)
    terms = token_losses(stats if grpo.beta else without, advantages, grpo)
    mine = (terms.loss * stats.mask * row_weights(stats.mask, grpo, float(stats.mask.sum()))).sum()
    expected = trl_loss(trainer, grpo, stats, advantages)
    assert mine.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-7)
    gradients = [torch.autograd.grad(loss, stats.logps)[0] for loss in (mine, expected)]
    torch.testing.assert_close(*gradients, atol=1e-7, rtol=1e-5)
