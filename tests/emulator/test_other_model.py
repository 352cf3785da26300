"""A model folder of one's own in place of the shipped one: other sizes, another tokenizer, another template."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from emulator.backend import EmulatorBackend
from runner.grpo.types import Reason
from tests.backends.kit import batches, make_job, make_run, metrics, questions

pytestmark = [pytest.mark.lm, pytest.mark.trl]


def test_any_small_llama_folder_stands_in_for_the_shipped_model(tiny_model: Path, tmp_path: Path) -> None:
    job = make_job("none", steps=2, beta=0.1)
    job = job.model_copy(update={"emulator": job.emulator.model_copy(update={"model": str(tiny_model)})})
    backend, train = EmulatorBackend(), questions(5)
    assert backend.check(job, train) == []
    assert backend.differences(job, train) == []
    run = make_run(tmp_path, job, train=train)
    backend.train(job, run)
    assert run.finish()[0] is Reason.FINISHED
    assert [event.metrics["kl"] >= 0 for event in metrics(tmp_path)] == [True, True]
    assert [len(batch.groups) for batch in batches(tmp_path)] == [2, 2]
    saved = tmp_path / "checkpoints/step-000002"
    transformers = pytest.importorskip("transformers")
    assert transformers.AutoModelForCausalLM.from_pretrained(saved).config.hidden_size == 32
