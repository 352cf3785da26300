"""The `lm` policy against transformers: same logits, same log-probabilities, same text. The loss: tests/parity."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("torch")
pytest.importorskip("trl")

import torch
import transformers as theirs

from emulator.lm.model import load_model
from emulator.policy import Sampling
from runner.data.examples import Example, Message
from tests.emulator.lm_builders import ADVANTAGES, CHAT, WEIGHTS, draw, examples, plain_logits, policy

pytestmark = [pytest.mark.lm, pytest.mark.trl]


@torch.no_grad()
def test_shipped_weights_give_transformers_logits_and_in_float32_are_as_exact() -> None:
    reference = theirs.AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32)
    model, ids = load_model(WEIGHTS), list(range(5, 60))
    rounded = reference(torch.tensor([ids])).logits[0], plain_logits(model, ids)
    exact = reference.double()(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(plain_logits(model.double(), ids), exact, atol=1e-5, rtol=0)
    their_error, our_error = ((logits - exact).square().mean().sqrt() for logits in rounded)
    assert our_error < 1.5 * their_error


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
