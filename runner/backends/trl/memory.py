"""What a run goes on with after it was out of memory: half as many completions in one forward pass.

A step is the same step then, cut into more passes; only rounding differs, so its figures are not bitwise those of a run
that had the memory. The figure lies in the run folder, because the process that knows it ends.
"""

from __future__ import annotations

from runner.backends.trl.settings import batching
from runner.grpo.order import micro_batch
from runner.grpo.run import Run
from runner.journal.folder import RunFolder, read_json, write_json
from runner.spec.model import JobSpec


def within_memory(job: JobSpec, run: Run) -> JobSpec:
    """The job with the micro-batch that an earlier attempt has left word of; told as an alert."""
    found = read_json(RunFolder(run.folder).micro_batch_json)
    if found is None:
        return job
    smaller = int(found["micro_batch"])
    run.alert(
        "micro_batch",
        f"out of memory at step {found['step']}: from here on {smaller} completions in a forward pass instead of "
        f"{batching(job.grpo).micro_batch}; figures are not comparable bit for bit with a run that had the memory",
    )
    return job.model_copy(update={"grpo": job.grpo.model_copy(update={"micro_batch": smaller})})


def leave_word(job: JobSpec, run: Run) -> None:
    """After the job, as it was run, was out of memory: what the next attempt is to do. Nothing where it is at 1."""
    cut = batching(job.grpo)
    if cut.micro_batch > 1:
        completions = job.grpo.prompts_per_step * job.grpo.num_generations
        smaller = micro_batch(completions, cut.micro_batch // 2)
        write_json(RunFolder(run.folder).micro_batch_json, {"micro_batch": smaller, "step": run.step + 1})
