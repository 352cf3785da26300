"""What a run came to, for a person: how it ended, what was learnt, what failed, where to look next."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner.cli.out import Line, Part, say
from runner.cli.progress import first_failure
from runner.cli.text import arrow, clean, clean_line, count, duration, indent, number, plural, size, sparkline, table
from runner.cli.words import badge, standing
from runner.journal.states import Reason, State
from runner.journal.words import ADVICE
from runner.queue.home import Home, find_home
from runner.queue.in_force import RewardInForce, rewards_in_force
from runner.store import queries
from runner.store.rows import CheckpointRow, GroupRow, RunRow
from runner.store.store import Store

ENDS = 0.1
"""Share of the steps that `first` and `last` are means of."""
MANY_SILENT = 0.5
"""Share of completions without a signal from which on the report says what to do."""
MANY_CUT = 0.2

Series = Sequence[tuple[int, float | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A metric's beginning and end."""

    first: float
    last: float
    values: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything the report is made of, read at once."""

    run: RunRow
    spec: dict[str, Any]
    rewards: list[RewardInForce]
    metrics: dict[str, Series]
    outcomes: list[tuple[str, str, int]]
    """Reward, outcome, number of calls."""
    failures: dict[str, list[Part]]
    """Reward → one failed call in a line."""
    checkpoint: CheckpointRow | None
    held_out: int
    """Prompts in an evaluation."""
    differences: list[dict[str, Any]]
    flat_groups: tuple[int, int]
    """Groups of the last step whose rewards are all equal: at the highest reward of that step, and below it."""


def read(store: Store, run: RunRow) -> Facts:
    """The facts of a run as they stand."""
    outcomes = [(row.name, row.outcome, row.calls) for row in queries.outcomes(store, run.id)]
    failed = dict.fromkeys(name for name, outcome, _ in outcomes if outcome not in ("ok", "none"))
    kept = [checkpoint for checkpoint in queries.checkpoints(store, run.id) if checkpoint.kept]
    evaluated = queries.steps(store, run.id, "eval")
    found = queries.events(store, run.id, types=["differences_found"])
    return Facts(
        run=run,
        spec=json.loads(run.spec),
        rewards=rewards_in_force(store, run),
        metrics=dict(queries.metrics(store, run.id)),
        outcomes=outcomes,
        failures={name: first_failure(store, run.id, name) for name in failed},
        checkpoint=kept[-1] if kept else None,
        held_out=len(queries.groups(store, run.id, evaluated[-1], "eval")) if evaluated else 0,
        differences=[item for event in found[-1:] if event.data for item in event.data["items"]],
        flat_groups=_flat_groups(queries.groups(store, run.id, run.last_step)),
    )


def _flat_groups(groups: Sequence[GroupRow]) -> tuple[int, int]:
    top = max((group.reward_max for group in groups if group.reward_max is not None), default=None)
    flat = [group.reward_max for group in groups if group.scored > 1 and group.reward_min == group.reward_max]
    return sum(reward == top for reward in flat), sum(reward != top for reward in flat)


def show(facts: Facts, home: Home) -> None:
    """The whole report, to stdout."""
    sections = (_ending(facts), _learnt(facts), _observations(facts), _kept(facts, home), _next(facts, home))
    for section in sections:
        lines = list(section)
        for line in lines:
            say(*line)
        if lines and section is not sections[-1]:
            say()


def plain(facts: Facts) -> dict[str, Any]:
    """The report as one JSON object."""
    run = facts.run
    return {
        "run": run.id,
        "job": run.job,
        "state": run.state,
        "reason": run.reason,
        "detail": run.detail,
        "step": run.last_step,
        "steps": run.total_steps,
        "digest": run.digest,
        "digest_note": run.digest_note,
        "metrics": {name: series[-1][1] for name, series in facts.metrics.items()},
        "rewards": [asdict(reward) for reward in facts.rewards],
        "checkpoint": asdict(facts.checkpoint) if facts.checkpoint else None,
        "emulated": run.emulated,
        "differences": facts.differences,
        "errors": [
            {"reward": name, "outcome": outcome, "calls": calls}
            for name, outcome, calls in facts.outcomes
            if outcome not in ("ok", "none")
        ],
    }


def _ending(facts: Facts) -> Iterator[Line]:
    run = facts.run
    yield headline(run)
    if run.detail and run.reason not in (Reason.FINISHED, Reason.GOAL_REACHED):
        for sentence in clean(run.detail).split("; "):
            yield [("  ✗ " if run.reason is Reason.EXPECT_NOT_MET else "  ", "red"), sentence]
    elif run.reason is Reason.FINISHED and (expected := len(_expected(facts))):
        yield [("  ✓ ", "green"), f"{plural(expected, 'expectation')} met"]
    if run.error:
        yield from ([line] for line in indent(clean(run.error), "  │ "))
    if run.reason is not None and run.reason in ADVICE:
        yield [f"  {ADVICE[run.reason]}"]


def headline(run: RunRow) -> Line:
    """The run, how it ended, how far it came and how long it took."""
    took = f"  {duration(run.ended_at - run.started_at)}" if run.ended_at and run.started_at else ""
    return [*badge(run), (run.id, "bold"), "  ", *standing(run), f"  step {run.last_step}/{run.total_steps}", took]


def _expected(facts: Facts) -> list[Any]:
    section = facts.spec["emulator"] if facts.run.emulated else facts.spec
    expected: list[Any] = section["expect"]
    return expected


def change(series: Series, ends: float) -> Change | None:
    """Means over the first and the last share `ends` of a series (at least one value each)."""
    values = [value for _, value in series if value is not None]
    if not values:
        return None
    n = max(1, int(len(values) * ends))
    return Change(first=math.fsum(values[:n]) / n, last=math.fsum(values[-n:]) / n, values=values)


def _learnt(facts: Facts) -> Iterator[Line]:
    """A table: the reward and every function, in training and on held-out prompts."""
    rows: list[tuple[str, ...]] = [*_rows(facts, "", ENDS), *_rows(facts, "eval/", 0.0)]
    if not rows:
        return
    n = max(1, int(len(facts.metrics.get("reward", ())) * ENDS))
    yield [("what was learnt", "bold"), f"  first → last: means of {plural(n, 'step')} each"]
    lines = table(rows, right=(2, 4))
    for (split, *_), line in zip(rows, lines, strict=True):
        yield ["  ", (line, "cyan" if split.startswith("eval") else "")]
    if facts.held_out:
        greedy = ", greedy" if facts.spec["evaluation"]["temperature"] == 0 else ""
        yield [f"  eval: {plural(facts.held_out, 'held-out prompt')}{greedy}, first and last evaluation"]


def _rows(facts: Facts, prefix: str, ends: float) -> Iterator[tuple[str, ...]]:
    roles = {f"rewards/{reward.name}/mean": (reward.name, _role(facts, reward)) for reward in facts.rewards}
    for metric, (name, role) in {"reward": ("reward", ""), **roles}.items():
        found = change(facts.metrics.get(prefix + metric, ()), ends)
        if found is None:
            continue
        yield (
            prefix.rstrip("/") or "train",
            clean_line(name),
            number(found.first),
            arrow(found.first, found.last),
            number(found.last),
            role or sparkline(found.values),
        )


def _role(facts: Facts, reward: RewardInForce) -> str:
    """`× 0.5, trusted, steps 12–40`: steps for one that was not in force all the time."""
    parts = [f"× {reward.weight:g}" if reward.weight else "not optimised", *(["trusted"] if reward.trusted else [])]
    steps = [step for step, _ in facts.metrics.get(f"rewards/{reward.name}/mean", ())]
    whole = [step for step, _ in facts.metrics.get("reward", ())]
    if steps and whole and steps[0] > whole[0]:
        parts.append(f"from step {steps[0]}")
    if steps and not reward.is_live:
        parts.append(f"until step {steps[-1]}")
    return ", ".join(parts)


def _observations(facts: Facts) -> Iterator[Line]:
    yield from _silence(facts)
    yield from _errors(facts)
    yield from _truncation(facts)


def _silence(facts: Facts) -> Iterator[Line]:
    values = [value for _, value in facts.metrics.get("frac_reward_zero_std", ()) if value is not None]
    if not values:
        return
    share = math.fsum(values) / len(values)
    last = change(facts.metrics["frac_reward_zero_std"], ENDS)
    ending = f" ({last.last:.0%} at the end)" if last and len(values) > 1 else ""
    yield [
        ("no signal  ", "yellow" if share >= MANY_SILENT else ""),
        f"{share:.0%} of the completions were in groups with equal rewards{ending}; such a group teaches nothing",
    ]
    best, below = facts.flat_groups
    if best + below:
        solved = f"{plural(best, 'group')} equal at the top reward (solved), {below} equal below it"
        yield [f"           at the last step: {solved}"]
    if share >= MANY_SILENT and below >= best:
        yield ["           easier prompts, a finer reward or more num_generations would give more to learn from"]


def _errors(facts: Facts) -> Iterator[Line]:
    calls: dict[str, int] = {}
    for name, _, n in facts.outcomes:
        calls[name] = calls.get(name, 0) + n
    for name, example in facts.failures.items():
        failed = [(outcome, n) for reward, outcome, n in facts.outcomes if reward == name]
        listed = ", ".join(f"{n:,} {outcome}" for outcome, n in failed if outcome not in ("ok", "none"))
        yield [("errors     ", "red"), f"{clean_line(name)}: {listed} of {calls[name]:,} calls; first", *example]


def _truncation(facts: Facts) -> Iterator[Line]:
    found = change(facts.metrics.get("completions/clipped_ratio", ()), ENDS)
    if found is None or max(found.first, found.last) == 0:
        return
    limit = facts.spec["grpo"]["max_completion_length"]
    yield [
        ("cut        ", "yellow" if found.last >= MANY_CUT else ""),
        f"{found.last:.0%} of the last completions were cut at {limit} tokens (at first {found.first:.0%})",
    ]


def _kept(facts: Facts, home: Home) -> Iterator[Line]:
    run = facts.run
    if facts.differences:
        names = ", ".join(clean_line(item["field"]) for item in facts.differences)
        yield [f"differs    from a real run in {names}; `runner show {run.id}` says how"]
    if facts.checkpoint is not None:
        path = shown_path(home.run(run.id).path / facts.checkpoint.path)
        yield [f"checkpoint step {facts.checkpoint.step}, {size(facts.checkpoint.bytes)}: {path}"]
    tokens = [value or 0 for _, value in facts.metrics.get("time/tokens_per_second", ())]
    if tokens:
        yield [f"speed      {count(math.fsum(tokens) / len(tokens))} tokens a second"]
    if run.digest:
        yield [f"digest     {run.digest[:16]}", f"  {run.digest_note}" if run.digest_note else ""]


def _next(facts: Facts, home: Home) -> Iterator[Line]:
    elsewhere = "" if find_home().path == home.path else f" --home {shlex.quote(str(home.path))}"
    commands = next_steps(facts.run, bool(facts.failures), facts.checkpoint is not None)
    yield [("next", "bold")]
    rows = [(program() + command.removeprefix("runner") + elsewhere, purpose) for command, purpose in commands]
    for line in table(rows, gap="    "):
        yield [f"  {clean_line(line)}"]


def program() -> str:
    """What a person has to type to run us: `runner`, or its path where the shell would not find it."""
    here = Path(sys.executable).parent / "runner"
    return "runner" if shutil.which("runner") or not here.exists() else shlex.quote(shown_path(here))


def next_steps(run: RunRow, failures: bool, checkpoint: bool) -> list[tuple[str, str]]:
    """Exact commands, the most useful first, each with what it is for."""
    commands: list[tuple[str, str]] = []
    if run.state is State.HELD:
        how = "goes on from the last checkpoint" if checkpoint else "starts anew"
        commands.append((f"runner resume {run.id}", how))
    if run.state is State.QUEUED:
        commands.append((f"runner resume {run.id}", "starts it now"))
    if run.reason is Reason.INTERNAL:
        commands.append((f"runner logs {run.id} --trainer", "what the trainer printed"))
    if failures:
        commands.append((f"runner completions {run.id} --errors", "what the rewards failed on"))
    if run.last_step:
        commands.append((f"runner completions {run.id} --best", "what scores highest now"))
    commands.append((f"runner logs {run.id}", "what happened, step by step"))
    if checkpoint:
        commands.append((f"runner export {run.id}", "model, completions and metrics as files"))
    if run.state.is_final:
        commands.append((f"runner rerun {run.id}", "again, with the files as they are now"))
    return commands


def shown_path(path: Path) -> str:
    """Relative to the working directory where it lies below it."""
    here = Path.cwd()
    return clean_line(str(path.relative_to(here) if path.is_relative_to(here) else path))
