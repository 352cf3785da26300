"""`runner plan`: everything that would be in force, and what it comes to, running nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import typer

from runner.cli import plan_forecast
from runner.cli.boundary import INVALID
from runner.cli.jobs import home_of
from runner.cli.options import HomeOption, JobArgument, JsonOption, SetOption
from runner.cli.out import note, say, say_json
from runner.cli.plan_forecast import earlier_speed, run_probe, section
from runner.cli.text import clean, clean_line, number, plural
from runner.data.examples import Message
from runner.queue.jobs import Checked
from runner.spec.errors import Finding, render
from runner.spec.model import JobSpec, dump


def plan(
    job: JobArgument,
    backend: Annotated[
        Literal["trl", "emulator"], typer.Option(help="What would train it: `run` is trl, `emulate` the emulator.")
    ] = "trl",
    probe: Annotated[
        bool, typer.Option("--probe", help="Draw a few completions, score them, and say whether GRPO can learn here.")
    ] = False,
    prompts: Annotated[int, typer.Option(min=1, help="With --probe: how many prompts.")] = 16,
    passes: Annotated[
        float, typer.Option(metavar="SCORE", help="With --probe: from which score of the main reward on one passes.")
    ] = 1.0,
    set_: SetOption = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Shows what a run would do. Every value in force, memory, tokens, rewards; with --probe whether it can learn."""
    from runner.preflight import outlook
    from runner.queue.jobs import find_job, validate
    from runner.spec.resolve import revision

    checked = validate(find_job(job, home_of(home)), set_ or (), backend)
    found = outlook(checked)
    earlier = earlier_speed(checked, home_of(home))
    probed = run_probe(checked, prompts, passes) if probe else None
    if json:
        say_json(
            {**_plain(checked, revision(checked.loaded.job)), **plan_forecast.plain(checked, found, earlier, probed)}
        )
    else:
        if warnings := [*checked.warnings, *checked.loaded.locate(_for_elsewhere(found.findings))]:
            note(render(warnings))
        for line in _lines(checked, revision(checked.loaded.job)):
            say(clean(line))
        for line in plan_forecast.lines(checked, found, earlier, probed):
            say(clean(line))
    if any(finding.severity == "error" and finding.code != "environment" for finding in found.findings):
        raise typer.Exit(INVALID)


def _for_elsewhere(findings: Sequence[Finding]) -> list[Finding]:
    """What only this machine lacks is no fault of the job, which may be planned here and run on another."""
    return [
        replace(finding, severity="warning", message=f"not on this machine: {finding.message}")
        if finding.code == "environment"
        else finding
        for finding in findings
    ]


def _lines(checked: Checked, revision: str) -> Iterator[str]:
    import yaml

    yield f"# {checked.loaded.name}, revision {revision[:12]}, on {checked.backend}: every value in force"
    yield yaml.safe_dump(dump(checked.job), sort_keys=False, allow_unicode=True, width=100).rstrip()
    for title, lines in (
        ("what it comes to", arithmetic(checked)),
        ("what the emulator does differently", _differences(checked)),
        ("rewards", _rewards(checked)),
        ("first prompt", _first_prompt(checked)),
    ):
        yield from section(title, lines)


def arithmetic(checked: Checked) -> list[str]:
    """Batches, steps and passes over the data, in words."""
    job, data = checked.job, checked.data
    grpo = job.grpo
    batch = grpo.prompts_per_step * grpo.num_generations
    reuse = _batches(job) * grpo.generate_every * grpo.prompts_per_step
    lines = [
        f"{grpo.prompts_per_step} prompts × {grpo.num_generations} generations = {batch:,} completions a step; "
        f"{grpo.steps:,} steps",
        f"{reuse:,} prompts = {reuse * grpo.num_generations:,} completions generated, "
        f"at most {reuse * grpo.num_generations * grpo.max_completion_length:,} tokens",
        f"data: {plural(data.rows, 'row')}, {len(data.train):,} to train on / {len(data.eval):,} held out; "
        f"{number(reuse / len(data.train))} passes over the training rows",
        _evaluations(checked),
    ]
    if grpo.generate_every * grpo.num_iterations > 1:
        lines.insert(
            1,
            f"each generation batch has {grpo.generate_every * grpo.prompts_per_step} prompts and makes "
            f"{grpo.generate_every * grpo.num_iterations} steps",
        )
    return lines


def _batches(job: JobSpec) -> int:
    """Generation batches in the whole run."""
    return -(-job.grpo.steps // (job.grpo.generate_every * job.grpo.num_iterations))


def _evaluations(checked: Checked) -> str:
    job = checked.job
    held_out = len(checked.data.eval[: job.evaluation.limit])
    if not held_out:
        return "no evaluation: nothing is held out (`dataset.holdout`, or a column `split`)"
    times = f", every {job.evaluation.every} steps" if job.evaluation.every else ""
    how = "greedy" if job.evaluation.temperature == 0 else f"temperature {job.evaluation.temperature:g}"
    each = f" × {job.evaluation.num_generations}" if job.evaluation.num_generations > 1 else ""
    return f"evaluation: {held_out:,} prompts{each}, {how}, at the start{times} and at the end"


def _differences(checked: Checked) -> list[str]:
    from runner.api import differences

    return [f"{item.field}: {item.asked} asked for, {item.kind}: {item.detail}" for item in differences(checked)]


def _rewards(checked: Checked) -> list[str]:
    lines = [f"version {checked.rewards.sha256[:12]}"]
    for function in checked.rewards.functions:
        weight = f"weight {function.weight:g}" if function.weight else "recorded, not optimised"
        lines.append(
            f"{function.name}: {function.file}:{function.attribute}, {weight}, "
            f"{function.timeout:g} s a call, on error {function.on_error}" + (", trusted" if function.trusted else "")
        )
    return lines


def _first_prompt(checked: Checked) -> list[str]:
    prompt = checked.data.train[0].prompt
    if isinstance(prompt, str):
        return [prompt]
    return ["(through the model's chat template)", *(_turn(message) for message in prompt)]


def _turn(message: Message) -> str:
    return f"{clean_line(message['role'])}: {message['content']}"


def _plain(checked: Checked, revision: str) -> dict[str, Any]:
    from runner.api import differences

    return {
        "job": checked.loaded.name,
        "revision": revision,
        "backend": checked.backend,
        "spec": dump(checked.job),
        "overrides": list(checked.loaded.overrides),
        "arithmetic": arithmetic(checked),
        "differences": [
            {"field": item.field, "asked": item.asked, "kind": item.kind, "detail": item.detail}
            for item in differences(checked)
        ],
        "reward_version": checked.rewards.sha256,
        "first_prompt": checked.data.train[0].prompt,
        "warnings": [warning.message for warning in checked.warnings],
    }
