"""The part of `runner plan` that looks ahead: memory, tokens, time, and what a probe of the untrained model came to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from runner.cli.out import note
from runner.cli.reward_test import call_time
from runner.cli.text import clean_line, duration, indent, number, plural, size, table
from runner.queue.home import Home
from runner.queue.jobs import Checked

if TYPE_CHECKING:
    from runner.preflight import Memory, Outlook, Probe, Tokens

SHOWN = 60
"""Tokens of the first prompt."""


def section(title: str, lines: Sequence[str]) -> Iterator[str]:
    """As comments, so that what `plan` prints stays YAML."""
    if lines:
        yield ""
        yield f"# {title}"
        yield from indent("\n".join(lines), "#   ")


def lines(checked: Checked, found: Outlook, earlier: tuple[str, float] | None, probed: Probe | None) -> Iterator[str]:
    if found.tokens is not None:
        yield from section("tokens", list(_tokens(checked, found.tokens)))
    if found.memory is not None:
        yield from section("memory, estimated", list(_memory(found.memory)))
    if earlier is not None:
        run, seconds = earlier
        whole = duration(seconds * checked.job.grpo.steps)
        yield from section(
            "time", [f"{duration(seconds)} a step in {run}: {whole} for all steps, evaluations not counted"]
        )
    if probed is not None:
        yield from section("probe of the untrained model", list(_probe(probed)))


def plain(checked: Checked, found: Outlook, earlier: tuple[str, float] | None, probed: Probe | None) -> dict[str, Any]:
    memory = found.memory
    return {
        "findings": [asdict(finding) for finding in checked.loaded.locate(found.findings)],
        "tokens": asdict(found.tokens) if found.tokens else None,
        "memory": {**asdict(memory), "least": memory.least, "most": memory.most} if memory else None,
        "seconds_a_step": {"run": earlier[0], "seconds": earlier[1]} if earlier else None,
        "probe": {**asdict(probed), "failed": probed.failed, "verdict": probed.verdict} if probed else None,
    }


def earlier_speed(checked: Checked, home: Home) -> tuple[str, float] | None:
    """The latest run of this job on the same backend with as many completions a step, and its median seconds a step."""
    from runner.store import queries

    if not home.database.exists():
        return None
    shape = ("prompts_per_step", "num_generations", "max_completion_length")
    with home.open() as store:
        for run in queries.runs(store, job=checked.loaded.name):
            ran: dict[str, Any] = json.loads(run.spec)
            alike = all(ran["grpo"][name] == getattr(checked.job.grpo, name) for name in shape)
            if run.backend != checked.backend or not alike or ran["model"] != checked.job.model:
                continue
            series = queries.metrics(store, run.id, ["step_time"]).get("step_time", [])
            if values := sorted(value for _, value in series if value is not None):
                return run.id, values[len(values) // 2]
    return None


def run_probe(checked: Checked, prompts: int, passes: float) -> Probe:
    from runner.preflight import probe

    note(f"drawing {checked.job.grpo.num_generations} completions of each of {plural(prompts, 'prompt')} …")
    return probe(checked, prompts=prompts, passes=passes)


def _tokens(checked: Checked, tokens: Tokens) -> Iterator[str]:
    grpo = checked.job.grpo
    completions = grpo.prompts_per_step * grpo.num_generations
    yield f"prompts: {tokens.median:,} tokens (median), {tokens.longest:,} the longest; context {tokens.context:,}"
    most = completions * (tokens.median + grpo.max_completion_length)
    yield f"a step: {completions:,} completions, at most {most:,} tokens with their prompts"
    shown = "".join(f"⟦{text}⟧" if special else text for text, special in tokens.first[:SHOWN])
    more = f" … ({len(tokens.first)} tokens)" if len(tokens.first) > SHOWN else ""
    yield f"the first prompt as the model sees it, special tokens in ⟦⟧: {clean_line(shown)}{more}"


def _memory(memory: Memory) -> Iterator[str]:
    rows = [(name, size(n_bytes)) for name, n_bytes in memory.parts.items()]
    rows.append(("activations", f"{size(memory.activations[0])} to {size(memory.activations[1])}"))
    yield from table(rows, right=(1,))
    yield f"in all {size(memory.least)} to {size(memory.most)}, of {size(memory.there)} on this {memory.device}"


def _probe(found: Probe) -> Iterator[str]:
    yield from found.verdict
    yield f"{plural(found.prompts, 'prompt')} × {found.num_generations}: {found.useful:.0%} of the groups have a signal"
    passing = f"pass@1 {found.pass_at_1:.0%}, pass@{found.num_generations} {found.pass_at_group:.0%}"
    yield f"{passing} (`{clean_line(found.measure)}` ≥ {found.passes:g})"
    yield f"{found.mean_tokens:.0f} tokens a completion, {found.cut:.0%} cut"
    rows = [
        (
            clean_line(item.name),
            number(item.mean),
            number(item.spread),
            call_time(item.p95),
            f"{item.failed} failed",
        )
        for item in found.figures
    ]
    yield from table([("reward", "mean", "spread", "p95 of a call", ""), *rows], right=(1, 2, 3))
    yield f"generated in {duration(found.generate_seconds)}, scored in {duration(found.score_seconds)}"
