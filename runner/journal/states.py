"""The words for how a run stands and why: one enum each, used by the trainer, the store, the CLI and the pages."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a run stands. The last five are final and immutable."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    HELD = "held"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    SUPERSEDED = "superseded"

    @property
    def is_final(self) -> bool:
        return self in FINAL

    @property
    def is_live(self) -> bool:
        """Whether a process of ours is working on the run."""
        return self in (State.STARTING, State.RUNNING)


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMED_OUT, State.SUPERSEDED})


class Reason(StrEnum):
    """Why a run is in its state. Each reason leads to exactly one state (`STATE_OF`)."""

    FINISHED = "finished"
    """All steps were done."""
    GOAL_REACHED = "goal_reached"
    """The job's `stop:` condition held."""
    EXPECT_NOT_MET = "expect_not_met"
    """It ran to the end; an `expect:` condition did not hold. Exit code 3."""
    TIME_LIMIT = "time_limit"
    """`limits.max_duration` was used up. Exit code 4."""
    TOKEN_LIMIT = "token_limit"
    """`limits.max_tokens` was used up. Exit code 4."""
    REWARD_ERROR = "reward_error"
    """A reward failed under `on_error: fail`, or too many calls failed."""
    DIVERGED = "diverged"
    """Loss or weights became NaN or infinite."""
    ENVIRONMENT = "environment"
    """The machine can't run the job (no GPU, missing package, model not found): resume it where it can. Exit code 5."""
    INVALID = "invalid"
    """What only shows when the run starts: data changed since, a checkpoint of another job. Exit code 2."""
    INTERNAL = "internal"
    """A defect of ours or of a library: the traceback is in the run's log."""
    STOPPED = "stopped"
    """Ctrl-C or SIGTERM; a checkpoint was written if there was time."""
    LOST = "lost"
    """The processes vanished without a word (kill -9, reboot, power)."""
    OUT_OF_MEMORY = "out_of_memory"
    ENGINE_FAILED = "engine_failed"
    """vLLM or the GPU under it broke down; a new process often goes on."""
    DISK_FULL = "disk_full"
    CRASH_LOOP = "crash_loop"
    """Cut off again and again without a new checkpoint: a person has to look. `resume` starts it once more."""
    DEPENDENCY_FAILED = "dependency_failed"
    """A job it comes `after` did not succeed; `resume` puts it back in the queue once that one has."""
    CANCELLED = "cancelled"
    SPEC_DELETED = "spec_deleted"
    """Its job file was deleted from the watched folder."""
    SUPERSEDED = "superseded"
    """A newer submission of the same job took the place in the queue."""
    WAITING = "waiting"
    """In the queue; `detail` says what for."""


STATE_OF: dict[Reason, State] = {
    Reason.FINISHED: State.SUCCEEDED,
    Reason.GOAL_REACHED: State.SUCCEEDED,
    Reason.EXPECT_NOT_MET: State.FAILED,
    Reason.TIME_LIMIT: State.TIMED_OUT,
    Reason.TOKEN_LIMIT: State.TIMED_OUT,
    Reason.REWARD_ERROR: State.FAILED,
    Reason.DIVERGED: State.FAILED,
    Reason.ENVIRONMENT: State.HELD,
    Reason.INVALID: State.FAILED,
    Reason.INTERNAL: State.FAILED,
    Reason.STOPPED: State.HELD,
    Reason.LOST: State.HELD,
    Reason.OUT_OF_MEMORY: State.HELD,
    Reason.ENGINE_FAILED: State.HELD,
    Reason.DISK_FULL: State.HELD,
    Reason.CRASH_LOOP: State.HELD,
    Reason.DEPENDENCY_FAILED: State.HELD,
    Reason.CANCELLED: State.CANCELLED,
    Reason.SPEC_DELETED: State.CANCELLED,
    Reason.SUPERSEDED: State.SUPERSEDED,
    Reason.WAITING: State.QUEUED,
}

EXIT_CODE: dict[Reason, int] = {
    Reason.FINISHED: 0,
    Reason.GOAL_REACHED: 0,
    Reason.EXPECT_NOT_MET: 3,
    Reason.TIME_LIMIT: 4,
    Reason.TOKEN_LIMIT: 4,
    Reason.ENVIRONMENT: 5,
    Reason.INVALID: 2,
    Reason.STOPPED: 130,
}
"""Exit code of the foreground verbs and of the trainer; every other reason is 1."""


def exit_code(reason: Reason) -> int:
    return EXIT_CODE.get(reason, 1)
