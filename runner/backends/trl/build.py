"""A trainer for a job and a run: datasets of rendered prompts, the run's order, the model, the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import set_seed
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, PrinterCallback
from transformers.utils.logging import disable_progress_bar
from trl import GRPOConfig  # pyright: ignore[reportPrivateImportUsage]

from runner.backends.trl import engine
from runner.backends.trl.model import Device, is_chat, load_tokenizer, load_values, model_and_revision, prompt_text
from runner.backends.trl.reporter import Reporter
from runner.backends.trl.settings import batching, config_values, uses_vllm
from runner.backends.trl.trackers import trackers
from runner.backends.trl.trainer import OrderSampler, RunTrainer
from runner.grpo.run import Run
from runner.grpo.types import Example, Next
from runner.spec.model import JobSpec, Lora

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def build(job: JobSpec, run: Run, first: Next, device: Device, scratch: Path) -> RunTrainer:
    """Everything ready to train. `first` is what `run.begin` said."""
    disable_progress_bar()
    if uses_vllm(job, device):
        engine.prepare(device)
    tokenizer = load_tokenizer(job)
    batches = generation_batches(job, run)
    examples = {example.id: example for batch in batches for example in batch}
    rows = {id: row for row, id in enumerate(examples)}
    reporter = Reporter(stopped=first.stop is not None)
    trainer = RunTrainer(
        run=run,
        examples=examples | {example.id: example for example in run.held_out},
        chat=any(is_chat(example) for example in examples.values()),
        order=_order(job, [[rows[example.id] for example in batch] for batch in batches]),
        model=_model(job),
        args=GRPOConfig(
            **config_values(job, device, scratch),
            model_init_kwargs=None if _starts_from_adapter(job) else load_values(job),
            eval_on_start=first.evaluate,
        ),
        train_dataset=_dataset(tokenizer, list(examples.values())),
        eval_dataset=_dataset(tokenizer, run.held_out) if run.held_out else None,
        processing_class=tokenizer,
        callbacks=[reporter, *trackers(job.report_to, run)],
        peft_config=_lora(job.lora) if job.lora and not _starts_from_adapter(job) else None,
    )
    reporter.trainer = trainer
    trainer.remove_callback(PrinterCallback)  # prints every log record to stdout, which is the caller's
    if trainer.use_vllm and (why := engine.biased(job.grpo)):
        run.alert("biased_ratio", why)
    if run.resume_from is None:
        # vLLM reseeds this process while it is built, so that the job's seed would not reach the rollouts (TRL #7040)
        set_seed(job.seed, device_specific=True)
    return trainer


def generation_batches(job: JobSpec, run: Run) -> list[Sequence[Example]]:
    """The examples of every generation of the run, in order."""
    return [run.examples(step) for step in range(1, job.grpo.steps + 1, run.steps_per_batch)]


def _order(job: JobSpec, batches: list[list[int]]) -> OrderSampler:
    passes = batching(job.grpo).passes_per_generation
    return OrderSampler(batches, job.grpo.num_generations, passes * job.grpo.num_iterations)


def _dataset(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> Dataset:
    """One row for each example. Its other columns stay with the run: TRL has no use for them."""
    return Dataset.from_dict(
        {
            "prompt": [prompt_text(tokenizer, example) for example in examples],
            "example_id": [example.id for example in examples],
        }
    )


def _starts_from_adapter(job: JobSpec) -> bool:
    return job.lora is not None and job.lora.adapter is not None


def _model(job: JobSpec) -> Any:
    """A name for TRL to load; or, loaded here, the base model with the adapter that training goes on from. With `beta`
    TRL then makes a frozen copy of that adapter the reference.
    """
    if job.lora is None or job.lora.adapter is None:
        return model_and_revision(job.model)[0]
    base = AutoModelForCausalLM.from_pretrained(model_and_revision(job.model)[0], **load_values(job))
    return PeftModel.from_pretrained(base, job.lora.adapter, is_trainable=True)


def _lora(lora: Lora) -> LoraConfig:
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]  # peft divides by r; a float is fine
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        bias="none",
    )
