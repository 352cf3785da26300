"""GitHub's two ways to show a verdict: annotations at the line of the job, and the summary of the step.

Annotations are lines of the log (workflow commands). What rewards and completions print is in the same log and could
hold such lines too, so commands are switched off while anything else is printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from runner.ci.checks import Check, Result, Verdict
from runner.ci.place import place_of, relative, shown

WORDS = {Verdict.FAILED: "error", Verdict.ERROR: "error", Verdict.WARNED: "warning"}
SIGNS = {
    Verdict.PASSED: "✓",
    Verdict.WARNED: "⚠️",
    Verdict.FAILED: "❌",
    Verdict.ERROR: "❌",
    Verdict.SKIPPED: "–",
}
MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~<>&@:$])")


def stop_commands(token: str) -> str:
    """The line after which nothing in the log is a command, until `resume_commands` of the same token."""
    return f"::stop-commands::{token}"


def resume_commands(token: str) -> str:
    return f"::{token}::"


def commands(results: Sequence[Result]) -> Iterator[str]:
    """A workflow command for each row that failed or warned."""
    for result in results:
        for check in result.checks:
            if check.verdict in WORDS:
                yield _command(result, check)


def _command(result: Result, check: Check) -> str:
    place = place_of(check)
    where = (
        {"file": place.file, "line": str(place.line), "col": str(place.column)}
        if place and place.line
        else {"file": relative(result.path)}
    )
    properties = {**where, "title": f"EMULATED {result.job}: {check.name}"}
    written = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    said = f"{check.found} (asked: {check.asked})" if check.asked else check.found
    return f"::{WORDS[check.verdict]} {written}::{_data(said)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def summary(results: Sequence[Result]) -> str:
    """Markdown for $GITHUB_STEP_SUMMARY: a table for each job; what passed is folded away."""
    parts = [line for result in results for line in _section(result)]
    passed = sum(result.passed for result in results)
    return "\n".join([*parts, f"**{passed} passed, {len(results) - passed} failed** (EMULATED)", "", ""])


def _section(result: Result) -> Iterator[str]:
    yield f"### {'✓' if result.passed else '❌'} {_escaped(result.job)} (EMULATED)"
    yield ""
    for trial in result.trials:
        digest = f", digest `{trial.run.digest[:16]}`" if trial.run.digest else ""
        steps = f"step {trial.run.last_step}/{trial.run.total_steps}"
        yield f"seed {trial.seed}: {_escaped(trial.run.id)}, {trial.run.state}, {steps}{digest}  "
    shown_rows = [check for check in result.checks if check.tier == "learning" or check.verdict in WORDS]
    yield ""
    yield from _table(shown_rows)
    rest = [check for check in result.checks if check not in shown_rows]
    if rest:
        yield f"<details><summary>{len(rest)} more checks</summary>\n"
        yield from _table(rest)
        yield "</details>\n"


def _table(checks: Sequence[Check]) -> Iterator[str]:
    if not checks:
        return
    yield "| | check | asked | found | |\n|---|---|---|---|---|"
    for check in checks:
        cells = (check.name, check.asked, check.found, shown(check))
        yield f"| {SIGNS[check.verdict]} | {' | '.join(map(_escaped, cells))} |"
    yield ""


def _escaped(text: str) -> str:
    return MARKDOWN.sub(r"\\\1", " ".join(text.split()))
