"""States and reasons in a person's words, for the terminal and the pages."""

from __future__ import annotations

from runner.journal.states import Reason

WORDS = {
    Reason.FINISHED: "all steps are done",
    Reason.GOAL_REACHED: "the goal of `stop:` is reached",
    Reason.EXPECT_NOT_MET: "it ran to the end, and what `expect:` asks was not reached",
    Reason.TIME_LIMIT: "`limits.max_duration` is used up",
    Reason.TOKEN_LIMIT: "`limits.max_tokens` is used up",
    Reason.REWARD_ERROR: "the rewards failed",
    Reason.DIVERGED: "loss or weights became NaN or infinite",
    Reason.ENVIRONMENT: "this machine can't run the job",
    Reason.INVALID: "the job does not fit what the run was started with",
    Reason.INTERNAL: "a defect of the runner or of a library",
    Reason.STOPPED: "stopped on request",
    Reason.LOST: "its processes vanished",
    Reason.OUT_OF_MEMORY: "out of memory",
    Reason.ENGINE_FAILED: "vLLM or the GPU broke down",
    Reason.DISK_FULL: "the disk is full",
    Reason.CRASH_LOOP: "cut off again and again without a new checkpoint",
    Reason.DEPENDENCY_FAILED: "a job that it comes after did not succeed",
    Reason.CANCELLED: "cancelled on request",
    Reason.SPEC_DELETED: "its job file was deleted",
    Reason.SUPERSEDED: "a newer submission took its place",
    Reason.WAITING: "waiting in the queue",
}

ADVICE = {
    Reason.DIVERGED: "a lower grpo.learning_rate or grpo.max_grad_norm often helps",
    Reason.OUT_OF_MEMORY: "fewer tokens or completions at once: grpo.micro_batch, grpo.max_completion_length",
    Reason.ENGINE_FAILED: "`runner resume` starts a new process; the cause stands in `runner logs RUN --trainer`",
    Reason.DISK_FULL: "make room; the last checkpoint is whole",
    Reason.LOST: "the last checkpoint is whole",
}
