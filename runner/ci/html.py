"""The report as one file that works from a mail or an artifact store: no script, nothing fetched, everything escaped.

Completions are hostile text: they are shown as text, and the page's own policy forbids scripts should one slip through.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from html import escape

from runner.ci import svg
from runner.ci.checks import Check, Result, Trial
from runner.ci.place import shown
from runner.store.queries import Order
from runner.store.rows import CompletionRow

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
SHOWN_COMPLETIONS = 3
MAX_TEXT = 4000
"""Characters of a completion or a prompt that are shown."""

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430; }
.badge { background: #f5c542; color: #000; padding: .1rem .5rem; border-radius: .2rem; font-weight: 600; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .25rem .6rem .25rem 0;
vertical-align: top; border-bottom: 1px solid #e3e7ec; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f4f6f8; padding: .6rem; margin: .2rem 0 1rem; }
.passed { color: #1a7f37; } .failed, .error { color: #b42318; font-weight: 600; } .warned { color: #9a6700; }
.skipped { color: #667085; } svg { width: 18rem; height: 8rem; }
figure { display: inline-block; margin: 0 1rem 1rem 0; }
figcaption { font-size: .85rem; color: #475467; }
"""


def page(results: Sequence[Result]) -> str:
    """The whole document."""
    passed = sum(result.passed for result in results)
    head = f"{passed} passed, {len(results) - passed} failed"
    body = "".join(_job(result) for result in results)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>EMULATED: {head}</title><style>{STYLE}</style></head>\n"
        f'<body><h1><span class="badge">EMULATED</span> {head}</h1>\n{body}</body></html>\n'
    )


def _job(result: Result) -> str:
    verdict = "passed" if result.passed else "failed"
    parts = [f'<section><h2>{_text(result.job)}: <span class="{verdict}">{verdict}</span></h2>\n']
    parts += [_about(trial) for trial in result.trials]
    parts.append(_checks(result.checks))
    for trial in result.trials:
        parts += _curves(trial)
    if result.trials:
        parts += _completions(result.trials[0])
    return "".join([*parts, "</section>\n"])


def _about(trial: Trial) -> str:
    run = trial.run
    digest = f", digest <code>{_text(run.digest[:16])}</code>" if run.digest else ""
    steps = f"step {run.last_step} of {run.total_steps}"
    return f"<p>{_text(run.id)}, seed {trial.seed}: {_text(run.state)}, {steps}{digest}</p>\n"


def _checks(checks: Sequence[Check]) -> str:
    rows = "".join(
        f'<tr><td class="{check.verdict}">{check.verdict}</td><td>{_text(check.name)}</td><td>{_text(check.asked)}</td>'
        f"<td>{_text(check.found)}</td><td>{_text(shown(check))}</td></tr>\n"
        for check in checks
    )
    return f"<table><tr><th></th><th>check</th><th>asked</th><th>found</th><th></th></tr>\n{rows}</table>\n"


def _curves(trial: Trial) -> Iterator[str]:
    """The reward, every function, and both again on held-out prompts."""
    means = sorted(name for name in trial.metrics if is_mean(name))
    yield f"<h3>seed {trial.seed}</h3>\n"
    for name in ("reward", "eval/reward", *means):
        if series := trial.metrics.get(name):
            caption = f"{_text(name)}: {series[0][1]:.4g} → {series[-1][1]:.4g}"
            yield f"<figure>{svg.curve(series)}<figcaption>{caption}</figcaption></figure>\n"


def is_mean(metric: str) -> bool:
    """Whether it is a reward function's mean, in training or on held-out prompts."""
    return metric.removeprefix("eval/").startswith("rewards/") and metric.endswith("/mean")


def _completions(trial: Trial) -> Iterator[str]:
    orders: tuple[Order, ...] = ("best", "worst")
    for order in orders:
        rows = trial.handle.completions(order=order, limit=SHOWN_COMPLETIONS)
        if rows:
            yield f"<h3>{order} completions</h3>\n"
            yield from (_completion(row) for row in rows)


def _completion(row: CompletionRow) -> str:
    scores = ", ".join(
        f"{name} {score.outcome if score.value is None else format(score.value, '.4g')}"
        for name, score in row.scores.items()
    )
    reward = "none" if row.reward is None else f"{row.reward:.4g}"
    return (
        f"<p>{row.split} step {row.step}, reward {reward}: {_text(scores)}</p>\n"
        f"<pre>{_text(row.prompt or '')}</pre><pre>{_text(row.completion)}</pre>\n"
    )


def _text(text: str) -> str:
    """Escaped, cut to what a page can bear, and with control and direction characters written out."""
    cut = text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
    return escape("".join(c if _is_plain(c) else f"\\u{ord(c):04x}" for c in cut))


def _is_plain(character: str) -> bool:
    return character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn")
