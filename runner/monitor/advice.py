"""What a person can do about a run as it stands, in one sentence."""

from __future__ import annotations

from runner.journal.states import Reason, State
from runner.journal.words import ADVICE
from runner.store.rows import RunRow

_BY_REASON: dict[Reason, str] = {
    Reason.EXPECT_NOT_MET: "The reward graphs and the worst completions show what did not come.",
    Reason.TIME_LIMIT: "Raise limits.max_duration and rerun from the last checkpoint, or take it as it is.",
    Reason.TOKEN_LIMIT: "Raise limits.max_tokens and rerun from the last checkpoint, or take it as it is.",
    Reason.REWARD_ERROR: "The reward logs show the error with its lines; mend the reward, then rerun.",
    Reason.ENVIRONMENT: "`runner doctor` says what is missing here; resume it when that is there.",
    Reason.INVALID: "What it was started with has changed; rerun takes the files as they are now.",
    Reason.INTERNAL: "The traceback is below, and in the run's folder under attempts/.",
}


def next_action(run: RunRow) -> str | None:
    """None where there is nothing to do."""
    if run.want in ("stop", "cancel") and run.state.is_live:
        return "It finishes its step and writes a checkpoint."
    if run.state is State.QUEUED:
        return f"Waits: {run.detail}." if run.detail else "Resume starts it on this machine."
    advice = _advice(run.reason) if run.reason else None
    if run.state is State.HELD:
        return " ".join(filter(None, [advice, "Resume goes on from the last checkpoint."]))
    return advice


def _advice(reason: Reason) -> str | None:
    if reason not in ADVICE:
        return _BY_REASON.get(reason)
    text = ADVICE[reason]
    return f"{text[:1].upper()}{text[1:]}."
