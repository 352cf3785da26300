"""A run's events as a person follows them in Python: one `Progress` for each step and evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.rewards.versions import in_words
from runner.store.rows import EventRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a run has come to: a finished step, or an evaluation of what the steps so far have taught."""

    step: int
    total: int
    metrics: Mapping[str, float]
    """Of the step, by TRL's names; empty for an evaluation."""
    evaluation: Mapping[str, float] | None
    """On held-out prompts, as `eval/reward`; None for a training step."""
    alerts: tuple[str, ...]
    """What a person should see, since the last progress."""

    def __str__(self) -> str:
        figures = self.metrics or self.evaluation or {}
        shown = {name: value for name, value in figures.items() if name.removeprefix("eval/") == "reward"}
        shown |= {name.removesuffix("/mean"): value for name, value in figures.items() if _is_of_a_reward(name)}
        text = "  ".join(f"{name} {value:.3g}" for name, value in shown.items())
        return "  ".join([f"step {self.step}/{self.total}", text, *(f"! {alert}" for alert in self.alerts)]).rstrip()


def _is_of_a_reward(metric: str) -> bool:
    return metric.removeprefix("eval/").startswith("rewards/") and metric.endswith("/mean")


def progress(events: Iterable[EventRow | None], total: int) -> Iterator[Progress]:
    """Of a run of `total` steps. Alerts and news of reward versions come with what follows them."""
    alerts: list[str] = []
    last = 0
    for event in events:
        if event is None or event.void or event.data is None:
            continue
        if event.type == "metrics_reported":
            last = event.data["step"]
            yield _progress(last, total, event.data["metrics"], alerts)
            alerts.clear()
        else:
            alerts += _alerts(event.type, event.data)
    if alerts:
        yield _progress(last, total, {}, alerts)


def _alerts(type_: str, data: Mapping[str, Any]) -> list[str]:
    """What the event has to tell, if anything."""
    if type_ == "alert":
        return [data["message"]]
    if type_ == "version_changed" and data["number"] > 1 and (told := in_words(data)):
        return [told.partition("\n")[0]]
    return []


def _progress(step: int, total: int, metrics: Mapping[str, float], alerts: Sequence[str]) -> Progress:
    evaluated = any(name.startswith("eval/") for name in metrics)
    return Progress(
        step=step,
        total=total,
        metrics={} if evaluated else metrics,
        evaluation=metrics if evaluated else None,
        alerts=tuple(alerts),
    )
