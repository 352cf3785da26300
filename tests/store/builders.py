"""Small runs for the store's tests: submissions and what a trainer would journal."""

from __future__ import annotations

from pathlib import Path

from runner.journal import events
from runner.journal.log import Journal
from runner.store.store import Store
from runner.store.submission import Submission


def submission(
    job: str = "countdown", revision: str = "r1", backend: str = "emulator", priority: int = 0
) -> Submission:
    return Submission(
        job=job,
        revision=revision,
        backend=backend,
        emulated=backend == "emulator",
        spec='{"name": "countdown",  "seed": 0}',
        total_steps=5,
        priority=priority,
    )


def score(value: float | None = 1.0, outcome: str = "ok", name: str = "format", **more: str) -> events.ScoreRow:
    return events.ScoreRow(name=name, value=value, outcome=outcome, seconds=0.25, **more)


def rollout(text: str, reward: float | None, *scores: events.ScoreRow) -> events.RolloutRow:
    return events.RolloutRow(
        completion=text,
        n_tokens=len(text),
        finish_reason="eos",
        reward=reward,
        advantage=0.5,
        scores=list(scores) or [score(reward)],
    )


def batch(
    step: int, *rollouts: events.RolloutRow, split: events.Split = "train", version: str = "v1"
) -> events.BatchScored:
    """One group on example 7."""
    rows = list(rollouts) or [rollout(f"{split} {step} a", 1.0), rollout(f"{split} {step} b", 0.0)]
    group = events.GroupRow(group_id=0, example_id=7, rollouts=rows)
    return events.BatchScored(step=step, split=split, reward_version=version, groups=[group])


def started(attempt: int = 1, resumed_step: int | None = None) -> events.AttemptStarted:
    return events.AttemptStarted(
        attempt=attempt, resumed_step=resumed_step, backend="emulator", emulated=True, pid=1000 + attempt
    )


def seen() -> events.ExamplesSeen:
    return events.ExamplesSeen(examples=[events.ExampleRow(id=7, prompt="2 and 3 make 5:", columns={"target": 5})])


def metrics(step: int, **values: float) -> events.MetricsReported:
    return events.MetricsReported(step=step, metrics={"reward": step / 10, "time/step": 0.1 * step} | values)


def evaluation(step: int) -> list[events.Event]:
    report = events.MetricsReported(step=step, metrics={"eval/reward": step / 10})
    return [batch(step, split="eval"), report]


def version(number: int, state: str, first_step: int | None = None, sha: str | None = None) -> events.VersionChanged:
    return events.VersionChanged(
        version=sha or f"v{number}",
        number=number,
        state=state,
        first_step=first_step,  # type: ignore[arg-type]
    )


def saved(step: int) -> events.CheckpointSaved:
    return events.CheckpointSaved(step=step, path=f"checkpoints/step-{step:06d}", bytes=100, weights=f"w{step}")


def trained(last: int = 3, attempt: int = 1) -> list[events.Event]:
    """A whole attempt from the base model: `last` steps, evaluated at 0, a checkpoint at the end."""
    steps: list[events.Event] = []
    for step in range(1, last + 1):
        steps += [batch(step), metrics(step)]
    begin = [started(attempt), version(1, "active", 0), seen(), *evaluation(0)]
    return [*begin, *steps, saved(last), events.AttemptEnded(step=last, reason="finished")]


def write_journal(store: Store, run_id: str, written: list[events.Event], attempt: int = 1) -> Path:
    path = store.folder(store.run(run_id)).journal(attempt)
    journal = Journal(path)
    for event in written:
        journal.append(event)
    journal.close()
    return path


def rows(store: Store, sql: str, *params: object) -> list[tuple[object, ...]]:
    return store.db.conn.execute(sql, params).fetchall()
