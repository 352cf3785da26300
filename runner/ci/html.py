"""The report as one file that works from a mail or an artifact store: no script, nothing fetched, everything escaped.

Completions are hostile text: they are shown as text, and the page's own policy forbids scripts should one slip through.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from html import escape

from runner.ci import svg
from runner.ci.checks import AS_ASKED, Check, Result, Trial, Verdict
from runner.ci.place import shown
from runner.store.queries import Order
from runner.store.rows import CompletionRow

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
SHOWN_COMPLETIONS = 3
MAX_TEXT = 4000
"""Characters of a completion or a prompt that are shown."""

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430; }
h2 { margin: 2.5rem 0 .5rem; padding-top: 1rem; border-top: 2px solid #e3e7ec; } h3 { margin: 1.2rem 0 .4rem; }
a { color: inherit; } summary { cursor: pointer; color: #475467; margin: .6rem 0; }
.badge { background: #f5c542; color: #000; padding: .1rem .5rem; border-radius: .2rem; font-weight: 600; }
h2 .badge { font-size: .8rem; vertical-align: middle; }
table { border-collapse: collapse; width: 100%; } th { font-weight: 600; color: #475467; }
td, th { text-align: left; padding: .25rem .8rem .25rem 0; vertical-align: top; border-bottom: 1px solid #e3e7ec; }
td { overflow-wrap: break-word; } td:first-child, td:last-child { white-space: nowrap; }
td:last-child { color: #667085; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f4f6f8; padding: .6rem; margin: .2rem 0 1rem; }
.passed { color: #1a7f37; } .failed, .error { color: #b42318; font-weight: 600; } .warned { color: #9a6700; }
.skipped, .quiet { color: #667085; } svg { width: 18rem; height: 9rem; font: 10px system-ui, sans-serif; }
figure { display: inline-block; margin: 0 1rem 1rem 0; } figcaption { font-size: .85rem; color: #475467; }
"""


def page(results: Sequence[Result]) -> str:
    """The whole document."""
    passed = sum(result.passed for result in results)
    head = f"{passed} passed, {len(results) - passed} failed"
    body = "".join(_job(result, number) for number, result in enumerate(results))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>EMULATED: {head}</title><style>{STYLE}</style></head>\n"
        f'<body><h1><span class="badge">EMULATED</span> {head}</h1>\n'
        "<p>Trained in miniature on a CPU. It shows that the job's files and rewards work, and can be learnt from; "
        f"its figures are not those of the real model.</p>\n{_overview(results)}{body}</body></html>\n"
    )


def _overview(results: Sequence[Result]) -> str:
    """A line for each job, with the first thing that speaks against it."""
    rows = "".join(
        f'<tr><td class="{_word(result)}">{_word(result)}</td><td><a href="#job{number}">{_text(result.job)}</a></td>'
        f"<td>{_text(_first_failure(result))}</td><td>{result.seconds:.0f} s</td></tr>\n"
        for number, result in enumerate(results)
    )
    return f"<table><tr><th></th><th>job</th><th>what failed first</th><th>took</th></tr>\n{rows}</table>\n"


def _word(result: Result) -> str:
    return "passed" if result.passed else "failed"


def _first_failure(result: Result) -> str:
    for check in result.checks:
        if check.verdict.is_failure:
            return f"{check.name}: {check.found}" + (f" (asked: {check.asked})" if check.asked else "")
    return ""


def _job(result: Result, number: int) -> str:
    told = [check for check in result.checks if is_told(check)]
    rest = [check for check in result.checks if check not in told]
    parts = [
        f'<section id="job{number}"><h2><span class="badge">EMULATED</span> {_text(result.job)}: '
        f'<span class="{_word(result)}">{_word(result)}</span></h2>\n'
    ]
    parts += [_about(trial) for trial in result.trials]
    parts += [_checks(told)] if told else []
    parts += _folded("more checks", [check for check in rest if check.name != AS_ASKED])
    parts += _folded("differences from a real run", [check for check in rest if check.name == AS_ASKED])
    for trial in result.trials:
        parts += _curves(trial)
    if result.trials:
        parts += _completions(result.trials[0])
    return "".join([*parts, "</section>\n"])


def is_told(check: Check) -> bool:
    """Whether a row is for every reader: what fails or warns, and what was to be learnt."""
    return check.verdict.is_failure or check.tier == "learning" or check.verdict is Verdict.WARNED


def _about(trial: Trial) -> str:
    run = trial.run
    digest = f", digest <code>{_text(run.digest[:16])}</code>" if run.digest else ""
    steps = f"step {run.last_step} of {run.total_steps}"
    return f'<p class="quiet">{_text(run.id)}, seed {trial.seed}: {_text(run.state)}, {steps}{digest}</p>\n'


def _checks(checks: Sequence[Check]) -> str:
    rows = "".join(
        f'<tr><td class="{check.verdict}">{check.verdict}</td><td>{_text(check.name)}</td><td>{_text(check.asked)}</td>'
        f"<td>{_text(check.found)}</td><td>{_text(shown(check))}</td></tr>\n"
        for check in checks
    )
    return f"<table><tr><th></th><th>check</th><th>asked</th><th>found</th><th></th></tr>\n{rows}</table>\n"


def _folded(title: str, checks: Sequence[Check]) -> Iterator[str]:
    if checks:
        yield f"<details><summary>{len(checks)} {title}</summary>\n{_checks(checks)}</details>\n"


def _curves(trial: Trial) -> Iterator[str]:
    """The reward, every function, and both again on held-out prompts; a single value is no curve."""
    means = sorted(name for name in trial.metrics if is_mean(name))
    known = [(name, trial.metrics.get(name, ())) for name in ("reward", "eval/reward", *means)]
    drawn = [(name, series) for name, series in known if len(series) > 1]
    if drawn:
        yield f"<h3>seed {trial.seed}, over the steps</h3>\n"
    for name, series in drawn:
        caption = f"{_text(name.removesuffix('/mean'))}: {series[0][1]:.4g} → {series[-1][1]:.4g}"
        yield f"<figure>{svg.curve(series)}<figcaption>{caption}</figcaption></figure>\n"


def is_mean(metric: str) -> bool:
    """Whether it is a reward function's mean, in training or on held-out prompts."""
    return metric.removeprefix("eval/").startswith("rewards/") and metric.endswith("/mean")


def _completions(trial: Trial) -> Iterator[str]:
    orders: tuple[Order, ...] = ("best", "worst")
    for order in orders:
        rows = trial.handle.completions(order=order, limit=SHOWN_COMPLETIONS)
        if rows:
            yield f"<details><summary>{order} completions</summary>\n"
            yield from (_completion(row) for row in rows)
            yield "</details>\n"


def _completion(row: CompletionRow) -> str:
    scores = ", ".join(
        f"{name} {score.outcome if score.value is None else format(score.value, '.4g')}"
        for name, score in row.scores.items()
    )
    reward = "none" if row.reward is None else f"{row.reward:.4g}"
    return (
        f"<p>{row.split} step {row.step}, reward {reward}: {_text(scores)}</p>\n"
        f'<pre><span class="quiet">{_text(row.prompt or "")}</span>{_text(row.completion)}</pre>\n'
    )


def _text(text: str) -> str:
    """Escaped, cut to what a page can bear, and with control and direction characters written out."""
    cut = text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
    return escape("".join(c if _is_plain(c) else f"\\u{ord(c):04x}" for c in cut))


def _is_plain(character: str) -> bool:
    return character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn")
