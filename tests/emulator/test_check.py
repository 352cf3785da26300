"""What the emulator refuses before anything runs, and what it says it does differently."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emulator.backend import EmulatorBackend
from runner.data.examples import Example
from runner.spec.errors import Finding
from runner.spec.model import JobSpec
from tests.emulator.lm_builders import WEIGHTS

pytestmark = pytest.mark.lm


def job(lora: dict[str, Any] | None = None, emulator: dict[str, Any] | None = None, **grpo: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "model": "none",
            "dataset": {"path": "data.jsonl"},
            "rewards": {"right": {"fn": "rewards.py:right"}},
            "lora": lora,
            "grpo": {"max_completion_length": 64, **grpo},
            "emulator": emulator or {},
        }
    )


def prompts(*texts: str) -> list[Example]:
    return [Example(id=i, prompt=text, columns={}) for i, text in enumerate(texts)]


def changed_model(folder: Path, change: Callable[[Path], object]) -> Path:
    shutil.copytree(WEIGHTS, folder)
    change(folder)
    return folder


def edit(name: str, **values: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def no_end(folder: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        edit(name, eos_token_id=None)(folder)


def checked(folder: Path, example: Example | None = None) -> Finding:
    found = EmulatorBackend().check(job(emulator={"model": str(folder)}), [example] if example else prompts("2+2="))
    [finding] = found
    return finding


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edit("config.json", model_type="qwen2"), "model_type is 'qwen2'; the emulator computes only 'llama'"),
        (edit("config.json", rope_parameters={"rope_type": "yarn"}), "rope_type is 'yarn'"),
        (no_end, "no eos_token_id in generation_config.json or config.json; completions never end"),
        (lambda folder: (folder / "model.safetensors").unlink(), "is no model folder: it has no model.safetensors"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer.json"),
        (lambda folder: (folder / "config.json").write_text("{"), ""),
    ],
)
def test_a_model_that_can_not_be_emulated_is_refused(
    tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    finding = checked(changed_model(tmp_path / "model", change))
    assert (finding.code, finding.field) == ("semantic", "emulator.model")
    assert words in finding.message


def test_messages_need_a_chat_template(tmp_path: Path) -> None:
    def strip(folder: Path) -> None:
        edit("tokenizer_config.json", chat_template=None)(folder)

    folder = changed_model(tmp_path / "model", strip)
    message = Example(id=0, prompt=[{"role": "user", "content": "2+2="}], columns={})
    assert "no chat template" in checked(folder, message).message
    assert EmulatorBackend().check(job(emulator={"model": str(folder)}), prompts("2+2=")) == []


def test_a_completion_that_fills_the_whole_context_is_refused() -> None:
    [finding] = EmulatorBackend().check(job(max_completion_length=512), prompts("2+2="))
    assert finding.field == "emulator.max_completion_length"
    assert finding.message == "512 tokens leave no room for a prompt in a context of 512"


def said(job: JobSpec, examples: list[Example] | None = None) -> dict[str, tuple[str, str]]:
    found = EmulatorBackend().differences(job, examples or prompts("2+2="))
    return {item.field: (item.kind, item.detail) for item in found}


def test_everything_that_is_honoured_is_no_difference() -> None:
    honoured: dict[str, Any] = {
        "generate_every": 2,
        "num_iterations": 2,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.1,
        "weight_decay": 0.1,
        "beta": 0.04,
        "epsilon": 0.1,
        "epsilon_high": 0.3,
        "delta": 2.0,
        "loss_type": "dr_grpo",
        "importance_sampling_level": "sequence",
        "scale_rewards": "none",
        "multi_objective_aggregation": "normalize_then_sum",
        "mask_truncated_completions": True,
        "micro_batch": 4,
        "vllm": False,
        "gradient_checkpointing": False,
        "dtype": "float32",
    }
    assert said(job(lora={"rank": 4}, **honoured)) == {}


def test_everything_that_is_not_honoured_is_a_difference() -> None:
    asked = job(
        lora={"dropout": 0.1, "target_modules": ["q_proj", "c_attn"]},
        optim="lion",
        dtype="bfloat16",
        **{"loss_type": "bnpo", "micro_batch": 5},
    )
    assert {name: kind for name, (kind, _) in said(asked).items()} == {
        "grpo.optim": "not implemented",
        "grpo.micro_batch": "capped",
        "grpo.dtype": "not applicable",
        "lora.dropout": "not implemented",
        "lora.target_modules": "not applicable",
    }


def test_prompts_longer_than_the_context_are_counted_as_cut() -> None:
    long = "Using the numbers [3, 5, 2], make an expression that equals 17. " * 40
    assert said(job(), prompts(long, "short", long)) == {
        "dataset.prompt": ("capped", "they lose their beginning: the model's context is 512 tokens")
    }


def test_a_cut_prompt_keeps_its_end() -> None:
    from emulator.policy import Sampling
    from tests.emulator.lm_builders import policy

    it = policy()
    [long] = prompts("17 and " * 500 + "the end")
    drawn = it.sample([long], Sampling(max_completion_length=12), [[1]])
    whole = it._tokens.encode(long, 10**9)
    assert len(whole) > 1000
    assert drawn.prompts[0] == whole[-500:]


def test_replay_says_what_needs_tokens_or_layers(tmp_path: Path) -> None:
    file = tmp_path / "completions.jsonl"
    file.write_text('{"prompt": "2+2=", "completions": ["4", "5"]}\n')
    replay = {"policy": "replay", "completions": str(file)}
    assert said(job(emulator=replay, lora={}, top_k=3, loss_type="grpo", epsilon_high=0.3)).keys() == {
        "grpo.optim",
        "grpo.top_k",
        "grpo.loss_type",
        "lora",
    }
