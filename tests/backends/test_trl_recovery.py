"""The TRL backend out of memory, beside trackers that fail, and from an adapter that is trained already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from runner.grpo import checkpoint as checkpoints
from runner.grpo.types import Reason
from runner.journal.events import Alert
from runner.rewards.contract import GroupCall, Score
from runner.spec.model import JobSpec, Lora
from tests.backends.kit import PureScorer, batches, events_of, make_job, make_run, metrics, questions

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = [pytest.mark.trl, pytest.mark.usefixtures("cpu")]

from runner.backends.__main__ import _classify  # noqa: E402
from runner.backends.trl.backend import TRLBackend  # noqa: E402
from runner.backends.trl.trainer import cut_again  # noqa: E402


class ShortOfMemory(PureScorer):
    """Raises, in the midst of a step's generation batch, what torch does."""

    def score(self, groups: Sequence[GroupCall], *, step: int, split: str) -> list[list[Score]]:
        if step == 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().score(groups, step=step, split=split)


def saving(job: JobSpec, every: int) -> JobSpec:
    return job.model_copy(update={"checkpoints": job.checkpoints.model_copy(update={"every": every})})


def alerts(folder: Path) -> list[Alert]:
    return [event for event in events_of(folder) if isinstance(event, Alert)]


def test_out_of_memory_the_next_attempt_goes_on_with_half_the_micro_batch(tiny_model: Path, tmp_path: Path) -> None:
    job = saving(make_job(tiny_model, steps=6, generate_every=2), every=3)
    whole = make_run(tmp_path / "whole", job)
    TRLBackend().train(job, whole)
    first = make_run(tmp_path / "run", job, scorer=ShortOfMemory())
    with pytest.raises(torch.OutOfMemoryError) as caught:
        TRLBackend().train(job, first)
    assert _classify(caught.value)[0] is Reason.OUT_OF_MEMORY
    again = make_run(tmp_path / "run", job, attempt=2)
    TRLBackend().train(job, again)
    assert again.finish()[0] is Reason.FINISHED
    [alert] = alerts(tmp_path / "run")
    assert (alert.step, alert.code) == (3, "micro_batch")
    assert "out of memory at step 5: from here on 4 completions in a forward pass instead of 8" in alert.message
    losses = [{m.step: m.metrics["loss"] for m in metrics(tmp_path / name)} for name in ("whole", "run")]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    texts = [
        [r.completion for batch in batches(tmp_path / name)[-1:] for g in batch.groups for r in g.rollouts]
        for name in ("whole", "run")
    ]
    assert texts[0] == texts[1]


def test_a_batch_is_cut_again_and_what_is_no_row_of_it_stays() -> None:
    parts = [
        {"ids": torch.tensor([[1], [2]]), "n": torch.tensor(7)},
        {"ids": torch.tensor([[3], [4]]), "n": torch.tensor(7)},
    ]
    cut = cut_again(parts, 4)
    assert cut is not None
    assert [(part["ids"].tolist(), int(part["n"])) for part in cut] == [([[1]], 7), ([[2]], 7), ([[3]], 7), ([[4]], 7)]
    assert cut_again(None, 4) is None


def test_failures_of_engine_and_gpu_are_told_from_defects() -> None:
    dead = type("EngineDeadError", (Exception,), {})("EngineCore encountered an issue")
    assert _classify(dead)[0] is Reason.ENGINE_FAILED
    assert _classify(RuntimeError("CUDA error: an illegal memory access was encountered"))[0] is Reason.ENGINE_FAILED
    reason, told = _classify(ValueError("No available memory for the cache blocks."))
    assert (reason, told.endswith("or lower grpo.vllm_max_model_length.")) == (Reason.ENVIRONMENT, True)
    assert _classify(RuntimeError("shapes do not match"))[0] is Reason.INTERNAL


def test_a_tracker_that_is_not_there_costs_an_alert_and_not_the_run(tiny_model: Path, tmp_path: Path) -> None:
    job = make_job(tiny_model, steps=1).model_copy(update={"report_to": ["wandb"]})
    run = make_run(tmp_path, job)
    TRLBackend().train(job, run)
    assert run.finish()[0] is Reason.FINISHED
    [alert] = alerts(tmp_path)
    assert alert.code == "tracker"
    assert alert.message.startswith("wandb is left out: ")


def test_a_tracker_that_breaks_down_is_left_out_from_then_on(tiny_model: Path, tmp_path: Path) -> None:
    from runner.backends.trl.trackers import Guarded

    class Broken:
        def on_log(self, *args: object, **kwargs: object) -> None:
            raise ConnectionError("the network is gone\nmore of it")

    run = make_run(tmp_path, make_job(tiny_model))
    tracker = Guarded("mlflow", run)
    tracker.inner = Broken()
    for _ in range(2):
        tracker.on_log(None, None, None, logs={})
    assert [alert.message for alert in alerts(tmp_path)][-1] == (
        "mlflow is left out: the network is gone; the run's own record is complete"
    )
    assert len(alerts(tmp_path)) == 2  # that it is not installed here, and the breakdown


def test_training_goes_on_from_a_trained_adapter_which_is_the_reference(tiny_model: Path, tmp_path: Path) -> None:
    job = make_job(tiny_model, steps=2, learning_rate=0.05).model_copy(update={"lora": Lora(rank=4)})
    TRLBackend().train(job, make_run(tmp_path / "first", job))
    [saved] = checkpoints.find(tmp_path / "first/checkpoints")
    greedy = job.model_copy(update={"grpo": job.grpo.model_copy(update={"temperature": 0.0})})
    tuned = TRLBackend().generate(greedy, saved.path, questions(2), 1)
    onward = make_job(tiny_model, steps=1, beta=0.1).model_copy(update={"lora": Lora(adapter=str(saved.path))})
    begun = onward.model_copy(update={"grpo": greedy.grpo})
    assert TRLBackend().generate(begun, None, questions(2), 1) == tuned
    assert TRLBackend().check(onward) == []
    TRLBackend().train(onward, make_run(tmp_path / "second", onward))
    [step] = metrics(tmp_path / "second")
    assert step.metrics["kl"] == pytest.approx(0.0, abs=1e-6)
    assert {"time/generate", "time/reward", "time/train"} <= step.metrics.keys()
    [after] = checkpoints.find(tmp_path / "second/checkpoints")
    assert after.weights != saved.weights


def test_a_folder_without_adapter_and_four_bits_without_gpu_are_refused(tiny_model: Path) -> None:
    job = make_job(tiny_model)
    [finding] = TRLBackend().check(job.model_copy(update={"lora": Lora(adapter=str(tiny_model))}))
    assert (finding.field, finding.message.split(":")[1]) == ("lora.adapter", " there is no adapter_config.json.")
    [finding] = TRLBackend().check(job.model_copy(update={"lora": Lora(quantize="nf4")}))
    assert (finding.code, finding.message) == ("environment", "lora.quantize needs a GPU.")
