"""What a person sees of a run while it goes on: a live line on a terminal, plain lines elsewhere. All on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from runner.cli.out import Line, Part, console, is_terminal, note, plain, styled
from runner.cli.text import clean, clean_line, clock, count, cut, plural
from runner.cli.words import EMULATED
from runner.queue.in_force import rewards_in_force
from runner.rewards.versions import in_words
from runner.store import queries
from runner.store.rows import EventRow, RunRow
from runner.store.store import Store

if TYPE_CHECKING:
    from rich.live import Live

PLAIN_EVERY_SECONDS = 2.0
BAR = 20
MAX_REWARDS = 6
"""Rewards named in a progress line."""


class Progress:
    """Takes the run's events as they come. A context manager: the live line is gone when it ends."""

    def __init__(self, run: RunRow, store: Store) -> None:
        self._run = run
        self._store = store
        spec = json.loads(run.spec)
        self._rewards = self._rewards_now()
        self._greedy = spec["evaluation"]["temperature"] == 0
        self._failing: set[str] = set()
        self._printed_at = 0.0
        self._first: tuple[int, float] | None = None
        self._live: Live | None = None
        self.step = run.last_step

    def __enter__(self) -> Self:
        if is_terminal(sys.stderr):
            from rich.live import Live

            self._live = Live(console=console(sys.stderr), refresh_per_second=8, transient=True)
            self._live.start()
            self._show(["starting …"])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def take(self, event: EventRow) -> None:
        """Shows one event."""
        shown: Callable[[EventRow, dict[str, Any]], None] | None = getattr(self, f"_{event.type}", None)
        if shown is not None and event.data is not None and not event.void:
            shown(event, event.data)

    def _attempt_started(self, event: EventRow, data: dict[str, Any]) -> None:
        if data["resumed_step"] is not None:
            note(f"attempt {data['attempt']} goes on from the checkpoint of step {data['resumed_step']}")
        self._first = None

    def _differences_found(self, event: EventRow, data: dict[str, Any]) -> None:
        for item in data["items"]:
            note(("differs  ", "yellow"), clean_line(f"{item['field']}: {item['asked']} asked for, {item['detail']}"))

    def _metrics_reported(self, event: EventRow, data: dict[str, Any]) -> None:
        metrics: dict[str, float] = data["metrics"]
        if any(name.startswith("eval/") for name in metrics):
            self._evaluation(event, {name.removeprefix("eval/"): value for name, value in metrics.items()})
        else:
            self._training(event, metrics)
        self._tell_failures(event, metrics)

    def _training(self, event: EventRow, metrics: Mapping[str, float]) -> None:
        self.step = event.step or 0
        self._first = self._first or (self.step, event.at)
        total = self._run.total_steps
        head = f"step {self.step}/{total}"
        figures = [*self._figures(metrics), *self._speed(event, metrics)]
        if self._live is not None:
            badge: list[Part] = [EMULATED, " "] if self._run.emulated else []
            self._show([*badge, head, *bar(self.step / total), *figures], [*badge, head, *figures])
        elif self.step >= total or event.at - self._printed_at >= PLAIN_EVERY_SECONDS:
            self._printed_at = event.at
            note(head, *figures)

    def _figures(self, metrics: Mapping[str, float]) -> list[Part]:
        found = [name.removeprefix("rewards/") for name in metrics if name.startswith("rewards/")]
        added = [name.removesuffix("/mean") for name in found if name.endswith("/mean")]  # while it trains
        names = list(dict.fromkeys([*self._rewards, *added]))[:MAX_REWARDS]
        named = {"reward": "reward", **{name: f"rewards/{name}/mean" for name in names}}
        known = {name: metrics[metric] for name, metric in named.items() if metric in metrics}
        return [f"  {clean_line(name)} {value:.2f}" for name, value in known.items()]

    def _speed(self, event: EventRow, metrics: Mapping[str, float]) -> list[Part]:
        """Tokens a second, and the time left at the pace since this attempt's first step."""
        tokens = metrics.get("time/tokens_per_second")
        parts: list[Part] = [] if tokens is None else [f"  {count(tokens)} tok/s"]
        if self._first is not None and (done := self.step - self._first[0]) > 0:
            left = (event.at - self._first[1]) / done * (self._run.total_steps - self.step)
            parts.append(f"  {clock(left)} left")
        return parts

    def _evaluation(self, event: EventRow, metrics: Mapping[str, float]) -> None:
        step = event.step or 0
        prompts = len(queries.groups(self._store, self._run.id, step, "eval"))
        how = f"{plural(prompts, 'prompt')}{', greedy' if self._greedy else ''}"
        note(("eval", "cyan"), f" step {step}:", *self._figures(metrics), f"  ({how})")

    def _tell_failures(self, event: EventRow, metrics: Mapping[str, float]) -> None:
        """A reward's first failed calls, with an example. Later ones are in the report and in the logs."""
        for metric, share in metrics.items():
            name = metric.removeprefix("eval/").removeprefix("rewards/").removesuffix("/error_rate")
            if metric.endswith("/error_rate") and share > 0 and name not in self._failing:
                self._failing.add(name)
                head = f" {clean_line(name)} failed in {share:.0%} of its calls at step {event.step}"
                note(("reward", "bold red"), head, *first_failure(self._store, self._run.id, name))

    def _checkpoint_saved(self, event: EventRow, data: dict[str, Any]) -> None:
        if self._live is None:
            return
        note(("checkpoint", "dim"), f" step {event.step}")

    def _version_changed(self, event: EventRow, data: dict[str, Any]) -> None:
        if data["number"] == 1 or not (told := in_words(data)):
            return
        self._rewards = self._rewards_now()
        bad = data["state"] == "rejected"
        note(("rewards", "bold red" if bad else "magenta"), f"  {clean_line(told.partition(chr(10))[0])}")

    def _rewards_now(self) -> list[str]:
        return [reward.name for reward in rewards_in_force(self._store, self._run) if reward.is_live][:MAX_REWARDS]

    def _alert(self, event: EventRow, data: dict[str, Any]) -> None:
        note(("alert", "bold yellow"), clean_line(f" step {data['step']}: {data['message']} [{data['code']}]"))

    def _show(self, *choices: Line) -> None:
        """The first of the lines that fits into the terminal; the last one is cut where none does."""
        assert self._live is not None
        width = self._live.console.width
        fitting = [parts for parts in choices if len(plain(parts)) <= width]
        self._live.update(styled(fitting[0] if fitting else [cut(plain(choices[-1]), width)]))


def bar(share: float) -> list[Part]:
    """A bar filled to that share."""
    filled = round(BAR * share)
    return [" ▕", ("█" * filled, "green"), " " * (BAR - filled), "▏"]


def first_failure(store: Store, run_id: str, name: str) -> list[Part]:
    """One failed call of that reward in a line: what happened, and where in its file."""
    for row in queries.reward_logs(store, run_id, name=name):
        if row.outcome not in ("ok", "none"):
            return [f": {row.outcome}", f", {failure_line(row.error)}" if row.error else ""]
    return []


def failure_line(error: str) -> str:
    """Type and message of a reward's error, and its innermost line in the job's own files."""
    head, *frames = clean(error).split("\n")
    places = [frame.strip() for frame in frames if ".py:" in frame and not frame.strip().startswith("/")]
    return cut(head, 160) + (f" ({places[-1].split(' in ')[0]})" if places else "")
