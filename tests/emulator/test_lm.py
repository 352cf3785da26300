"""The `lm` policy: its model against transformers, its sampling against the softmax, its loss against the formula."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
import yaml

from emulator.lm.batch import Completions, Prompts, completion_logits
from emulator.lm.chat import render
from emulator.lm.drawn import Drawn
from emulator.lm.generate import choose, generate, uniform
from emulator.lm.model import LlamaConfig, load_model, save_weights
from emulator.lm.policy import LmPolicy, learning_rate_factor
from emulator.policy import Sampling
from emulator.pretrain.problems import Problem, problems, solutions
from emulator.pretrain.text import PREFILL, PROMPT, SYSTEM, Mix, completion, training_problems
from runner.data.examples import Example
from runner.spec.model import Grpo
from tests.emulator.lm_builders import (
    ADVANTAGES,
    CHAT,
    COUNTDOWN,
    WEIGHTS,
    draw,
    evaluate,
    examples,
    plain_logits,
    policy,
    random_model,
)

pytestmark = pytest.mark.lm

# The forward pass


def test_completions_behind_a_shared_prompt_get_the_logits_of_a_plain_pass() -> None:
    model = random_model()
    prompts, completions = [[1, 2, 3, 4, 5], [6, 7]], [[10, 11, 12], [13], [14, 15], [16, 17, 18, 19]]
    owner = [0, 0, 1, 1]
    logits = completion_logits(model, Prompts.pad(prompts), Completions.pad(completions, owner))
    for row, (ids, of) in enumerate(zip(completions, owner, strict=True)):
        expected = plain_logits(model, prompts[of] + ids)[len(prompts[of]) - 1 : -1]
        torch.testing.assert_close(logits[row, : len(ids)], expected, atol=1e-5, rtol=1e-5)


def test_a_shared_prompt_gets_the_gradient_of_all_its_completions() -> None:
    shared, plain = random_model(), random_model()
    prompt, completions = [1, 2, 3], [[10, 11], [12, 13]]
    logits = completion_logits(shared, Prompts.pad([prompt]), Completions.pad(completions, [0, 0]))
    logits.square().sum().backward()
    for ids in completions:
        plain_logits(plain, prompt + ids)[2:-1].square().sum().backward()
    for mine, theirs in zip(shared.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-3, rtol=1e-4)


def test_completions_of_one_token_need_only_the_prompt() -> None:
    model = random_model()
    logits = completion_logits(model, Prompts.pad([[1, 2]]), Completions.pad([[9]], [0]))
    torch.testing.assert_close(logits[0], plain_logits(model, [1, 2])[-1:])


def test_saved_weights_load_bitwise(tmp_path: Path) -> None:
    model = random_model(tied=True)
    config = dict(model_type="llama", vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True)
    (tmp_path / "config.json").write_text(json.dumps(config | heads))
    save_weights(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "qwen2"}, "model_type is 'qwen2'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_type is 'llama3'"),
    ],
)
def test_another_architecture_is_refused_by_name(tmp_path: Path, change: dict[str, object], words: str) -> None:
    config = json.loads((WEIGHTS / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=words):
        LlamaConfig.read(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("settings", "theta"),
    [({"rope_theta": 5e4}, 5e4), ({"rope_parameters": {"rope_theta": 2e4, "rope_type": "default"}}, 2e4), ({}, 1e4)],
)
def test_rope_theta_is_read_from_old_and_new_config_files(
    tmp_path: Path, settings: dict[str, object], theta: float
) -> None:
    config = json.loads((WEIGHTS / "config.json").read_text())
    del config["rope_theta"], config["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(config | settings))
    assert LlamaConfig.read(tmp_path / "config.json").rope_theta == theta


# Sampling


def test_uniform_numbers_are_those_of_splitmix64() -> None:
    drawn = [int(row[0] * 2**53) for row in uniform([1234567], 3)]
    assert drawn == [6457827717110365317 >> 11, 3203168211198807973 >> 11, 9817491932198370423 >> 11]


def test_tokens_are_drawn_as_often_as_the_softmax_says() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, float("-inf")]])
    n = 20_000
    u = torch.from_numpy(uniform(range(n), 4)[3])
    drawn = choose(logits.expand(n, -1), u)
    shares = torch.bincount(drawn, minlength=5) / n
    expected = logits.softmax(-1)[0]
    error = 4 * (expected * (1 - expected) / n).sqrt()
    assert bool(((shares - expected).abs() <= error).all())


def test_a_token_of_probability_zero_is_never_drawn_at_the_edges() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")]] * 2)
    assert choose(logits, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)).tolist() == [1, 3]


def one_token(sampling: Sampling, n: int = 400) -> set[int]:
    model = random_model()
    drawn = generate(model, [[1, 2, 3]], [list(range(n))], sampling, {0})
    return {tokens[0] for tokens in drawn[0]}


def test_top_k_draws_only_from_the_k_likeliest_tokens() -> None:
    likeliest = set(plain_logits(random_model(), [1, 2, 3])[-1].topk(3).indices.tolist())
    assert one_token(Sampling(max_completion_length=1, top_k=3)) == likeliest


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    probabilities, order = plain_logits(random_model(), [1, 2, 3]).detach()[-1].softmax(-1).sort(descending=True)
    p = float(probabilities[:2].sum()) - 1e-3
    assert one_token(Sampling(max_completion_length=1, top_p=p)) == set(order[:2].tolist())


def test_min_p_drops_tokens_unlikely_against_the_likeliest() -> None:
    probabilities = plain_logits(random_model(), [1, 2, 3])[-1].softmax(-1)
    kept = (probabilities >= 0.5 * probabilities.max()).nonzero().flatten().tolist()
    assert one_token(Sampling(max_completion_length=1, min_p=0.5)) == set(kept)


def test_a_strong_repetition_penalty_never_repeats_a_token() -> None:
    drawn = generate(
        random_model(),
        [[1, 2, 3]],
        [[5]],
        Sampling(max_completion_length=12, temperature=0.0, repetition_penalty=1e6),
        {0},
    )
    assert len(set(drawn[0][0]) | {1, 2, 3}) == len(drawn[0][0]) + 3


def test_the_seed_alone_decides_a_completion() -> None:
    it = policy()
    together = draw(it).completions
    alone = it.sample(examples(2)[1:], Sampling(max_completion_length=12), [[102]]).completions
    assert alone[0][0] == together[1][2]
    assert draw(it).completions == together
    assert draw(it, seed=7).completions != together


def test_the_end_token_counts_and_is_not_in_the_text() -> None:
    it = policy()
    drawn = it.sample(examples(1), Sampling(max_completion_length=60, temperature=0.0), [[0]])
    completion = drawn.completions[0][0]
    assert completion.finish == "eos"
    assert completion.n_tokens == len(drawn.tokens[0])
    assert completion.text.endswith("</answer>")
    cut = it.sample(examples(1), Sampling(max_completion_length=5, temperature=0.0), [[0]]).completions[0][0]
    assert (cut.finish, cut.n_tokens) == ("length", 5)
    assert completion.text.startswith(cut.text)


def test_more_completions_than_fit_side_by_side_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emulator.lm.generate.POSITIONS", 1000)
    model = random_model()
    seeds = [[g * 1000 + i for i in range(100)] for g in range(5)]
    many = generate(model, [[1 + g, 2] for g in range(5)], seeds, Sampling(max_completion_length=3), {0})
    single = generate(model, [[5, 2]], [[4050]], Sampling(max_completion_length=3), {0})
    assert [len(group) for group in many] == [100] * 5
    assert many[4][50] == single[0][0]


# The loss


def transcription(of: LmPolicy, drawn: Drawn, grpo: Grpo) -> torch.Tensor:
    """The first update's loss, one completion after the other, straight from the formula."""
    losses, lengths = [], []
    for tokens, owner, advantage in zip(drawn.tokens, drawn.owner, ADVANTAGES, strict=True):
        prompt = drawn.prompts[owner]
        logits = plain_logits(of.model, prompt + tokens)[len(prompt) - 1 : -1]
        logps = logits.log_softmax(-1)[torch.arange(len(tokens)), tokens]
        ratio = torch.exp(logps - logps.detach())
        if grpo.loss_type == "cispo":
            losses.append(-min(1.0, grpo.epsilon_high or grpo.epsilon) * advantage * logps)
        else:
            losses.append(-torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage))
        lengths.append(len(tokens))
    if grpo.loss_type == "grpo":
        return torch.stack([loss.mean() for loss in losses]).mean()
    total = torch.cat(losses).sum()
    return total / (len(losses) * 12 if grpo.loss_type == "dr_grpo" else sum(lengths))


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo"])
def test_loss_and_gradient_equal_the_formula(loss_type: str) -> None:
    it = policy(loss_type=loss_type, max_grad_norm=1e9)
    drawn = draw(it)
    expected = transcription(it, drawn, Grpo.model_validate({"loss_type": loss_type}))
    gradients = torch.autograd.grad(expected, list(it.model.parameters()))
    metrics = it.update(drawn, ADVANTAGES, 1)
    assert metrics["loss"] == pytest.approx(expected.item(), abs=1e-6)
    assert metrics["grad_norm"] == pytest.approx(math.sqrt(sum(g.square().sum().item() for g in gradients)), rel=1e-4)
    for parameter, gradient in zip(it.model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_an_update_in_chunks_equals_an_update_at_once(loss_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, chunked = policy(loss_type=loss_type, beta=0.1), policy(loss_type=loss_type, beta=0.1)
    drawn = draw(whole)
    expected = whole.update(drawn, ADVANTAGES, 1)
    monkeypatch.setattr("emulator.lm.learner.UPDATE_POSITIONS", 120)
    found = chunked.update(draw(chunked), ADVANTAGES, 1)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_second_pass_over_a_batch_clips_against_the_policy_that_drew_it() -> None:
    it = policy(learning_rate=3e-3, num_iterations=4, lr_scheduler_type="constant")
    drawn = draw(it)
    shares = [it.update(drawn, ADVANTAGES, step)["clip_ratio/region_mean"] for step in range(1, 5)]
    assert shares[0] == 0.0
    assert shares[-1] > 0.0


def test_kl_is_zero_at_the_start_and_grows_as_the_policy_moves() -> None:
    it = policy(beta=0.05, lr_scheduler_type="constant")
    kl = [it.update(draw(it, seed=step), ADVANTAGES, step)["kl"] for step in range(1, 4)]
    assert kl[0] == pytest.approx(0.0, abs=1e-6)
    assert kl[2] > kl[0]
    assert "kl" not in policy().update(draw(policy()), ADVANTAGES, 1)


def test_truncated_completions_can_be_left_out_of_the_loss() -> None:
    it = policy(mask_truncated_completions=True)
    drawn = it.sample(examples(1), Sampling(max_completion_length=3), [[1, 2]])
    assert {completion.finish for completion in drawn.completions[0]} == {"length"}
    assert it.update(drawn, [1.0, -1.0], 1)["grad_norm"] == 0.0


def test_what_is_rewarded_becomes_likelier() -> None:
    it = policy(lr_scheduler_type="constant", learning_rate=1e-4, num_iterations=2)
    drawn = draw(it)
    it.update(drawn, ADVANTAGES, 1)
    before = drawn.old_logps
    again = Drawn(drawn.prompts, drawn.tokens, drawn.owner, drawn.temperature, drawn.completions)
    it.update(again, ADVANTAGES, 2)
    assert before is not None and again.old_logps is not None
    gain = (again.old_logps - before).sum(1)
    assert float((gain * torch.tensor(ADVANTAGES)).sum()) > 0


# State


def test_a_saved_policy_goes_on_bitwise(tmp_path: Path) -> None:
    straight = policy()
    for step in (1, 2):
        straight.update(draw(straight, seed=step), ADVANTAGES, step)
    straight.save(tmp_path / "at2")
    resumed = policy()
    resumed.load(tmp_path / "at2")
    for it in (straight, resumed):
        it.update(draw(it, seed=3), ADVANTAGES, 3)
        it.save(tmp_path / ("straight" if it is straight else "resumed"))
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (tmp_path / "straight" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()


@pytest.mark.parametrize(
    ("kind", "factors"),
    [
        ("linear", [0.0, 0.5, 1.0, 0.875]),
        ("constant_with_warmup", [0.0, 0.5, 1.0, 1.0]),
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("cosine", [0.0, 0.5, 1.0, 0.9619397662556434]),
    ],
)
def test_the_learning_rate_follows_transformers_schedules(kind: str, factors: list[float]) -> None:
    grpo = Grpo.model_validate({"steps": 10, "warmup_ratio": 0.2, "lr_scheduler_type": kind})
    assert [learning_rate_factor(grpo, step) for step in (1, 2, 3, 4)] == pytest.approx(factors)


# Chat


def test_a_prefilled_turn_is_left_open() -> None:
    text = policy().prompt(Example(id=0, prompt=CHAT, columns={}))
    assert text == (
        "<|im_start|>system\nYou first reason step by step, then answer.<|im_end|>\n"
        "<|im_start|>user\nUsing the numbers [3, 5, 2], make an expression that equals 17.<|im_end|>\n"
        "<|im_start|>assistant\nLet me solve this step by step.\n<think>"
    )


def test_without_a_prefilled_turn_the_generation_prompt_is_added() -> None:
    text = policy().prompt(Example(id=0, prompt=CHAT[1:2], columns={}))
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_a_text_prompt_is_taken_as_it_stands() -> None:
    assert policy().prompt(Example(id=0, prompt="3 5 2 = ", columns={})) == "3 5 2 = "


def test_a_template_can_not_reach_into_python() -> None:
    with pytest.raises(ValueError, match="refuses these messages"):
        render("{{ messages.__class__.__mro__ }}", CHAT)


# What the shipped weights are made from


def test_every_expression_of_the_training_text_has_the_value_it_claims() -> None:
    found = [solution for problem in problems()[::40] for solution in solutions(problem.nums)]
    assert all(evaluate(solution.expression)[0] == solution.value for solution in found)
    assert {solution.steps: solution.expression for solution in solutions((3, 5, 2))}["3-2=1, 1*5=5"] == "(3-2)*5"


def test_no_held_out_problem_is_in_the_training_text() -> None:
    held_out = {(*sorted(problem.nums), problem.target) for problem in problems() if problem.held_out}
    assert len(held_out) == 651
    assert not held_out & {(*sorted(problem.nums), problem.target) for problem in training_problems()}
    rows = [json.loads(line) for line in (COUNTDOWN / "data.jsonl").read_text().splitlines()]
    evaluated = {(*sorted(row["nums"]), row["target"]) for row in rows if row["split"] == "evaluation"}
    assert evaluated == held_out
    assert not held_out & {(*sorted(row["nums"]), row["target"]) for row in rows if row["split"] == "train"}


def test_the_model_is_trained_on_the_countdown_jobs_own_prompt() -> None:
    dataset = yaml.safe_load((COUNTDOWN / "job.yaml").read_text())["dataset"]
    assert (dataset["system"], dataset["prompt"], dataset["prefill"]) == (SYSTEM, PROMPT, PREFILL)


def test_the_training_text_is_as_wrong_as_asked() -> None:
    rng = random.Random(0)
    problem = Problem((3, 5, 2), 17)
    right = {"3*5=15, 15+2=17</think>\n<answer>3*5+2</answer>"}
    assert {completion(problem, rng, Mix()) for _ in range(20)} == right
    assert {completion(problem, rng, Mix(equation=1.0)) for _ in range(20)} == {
        "3*5=15, 15+2=17</think>\n<answer>3*5+2=17</answer>"
    }
    broken = [completion(problem, rng, Mix(broken=0.3)) for _ in range(1000)]
    assert 0.25 < sum(text not in right for text in broken) / 1000 < 0.35
