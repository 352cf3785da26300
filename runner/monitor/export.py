"""`runner export --html`: one file with a run's graphs, completions, reward versions and logs, to be opened anywhere.

The same pages as the monitor's (`pages/dist/export/`), over answers that are in the file. It works from a disk, without
a server or a network: its policy allows the one script and the one style that are in it, and no connection at all.
Completions are in it as JSON that no parser takes for HTML, and become text nodes as everywhere else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import HTTPException

from runner.journal.events import Split
from runner.monitor import models, rollouts, runs
from runner.monitor.bundle import DIST
from runner.store import queries
from runner.store.rows import CompletionRow, RunRow
from runner.store.store import Store

MOST = 20_000
"""Completions; of a longer run those of evenly spaced steps, its last one among them."""
CHARS = 20_000
"""Of each prompt and completion."""
POINTS = 1000
"""Of each curve."""
ALL = -1


def write(store: Store, row: RunRow, path: Path, *, most: int = MOST) -> int:
    """Writes the file; gives the number of completions in it. Raises FileExistsError."""
    examples: dict[int, list[Any]] = {}
    chosen: dict[Split, list[int]] = {split: _spread(store, row, split, most) for split in runs.SPLITS}
    completions = [
        _completion(store, one, examples) for split, steps in chosen.items() for one in _rows(store, row, split, steps)
    ]
    held = {
        "home": _home(store, row, chosen).model_dump(mode="json"),
        "run": runs.run(store, row).model_dump(mode="json"),
        "series": runs.metrics(store, row, points=POINTS).model_dump(mode="json")["series"],
        "markers": [marker.model_dump(mode="json") for marker in runs.markers(store, row)],
        "versions": dict(_versions(store, row)),
        "examples": list(examples.values()),
        "completions": completions,
    }
    with path.open("x", encoding="utf-8") as file:
        file.write(page(row.id, held))
    return len(completions)


def page(title: str, held: Mapping[str, Any]) -> str:
    """The file's text."""
    script = (DIST / "export" / "page.js").read_text(encoding="utf-8").replace("</script", "<\\/script")
    style = (DIST / "export" / "page.css").read_text(encoding="utf-8")
    data = json.dumps(held, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="content-security-policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_plain(title)}</title><style>{style}</style></head>\n"
        f'<body><div id="app"></div><script type="application/json" id="run">{data}</script>\n'
        f'<script type="module">{script}</script></body></html>\n'
    )


def _plain(text: str) -> str:
    return "".join(char for char in text if char.isalnum() or char in "-_. ")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _home(store: Store, row: RunRow, chosen: Mapping[Split, list[int]]) -> models.HomeInfo:
    """Without the paths of this machine, and without any right."""
    left = [split for split, steps in chosen.items() if len(steps) < len(queries.steps(store, row.id, split))]
    told = (
        f"Of the {' and '.join(left)} completions only those of evenly spaced steps are in this file." if left else ""
    )
    return models.HomeInfo(
        home=f"exported {datetime.now(UTC):%Y-%m-%d}",
        emulate=False,
        version=version("grpo-runner"),
        token=True,
        rights=[],
        problems=[told] if told else [],
    )


def _spread(store: Store, row: RunRow, split: Split, most: int) -> list[int]:
    """Steps with completions, so few that there are not many more than `most` completions in them."""
    steps = queries.steps(store, row.id, split)
    a_step = len(queries.completions(store, row.id, step=steps[-1], split=split, limit=ALL)) if steps else 0
    every = -(-len(steps) * a_step // most)
    return steps[::-1][:: max(1, every)][::-1]


def _rows(store: Store, row: RunRow, split: Split, steps: list[int]) -> Iterator[CompletionRow]:
    for step in steps:
        yield from queries.completions(store, row.id, step=step, split=split, limit=ALL)


def _completion(store: Store, row: CompletionRow, examples: dict[int, list[Any]]) -> dict[str, Any]:
    """As the API gives it, its prompt once for all of the prompt's completions."""
    if row.example_id not in examples:
        _, columns = queries.example(store, row.run_id, row.example_id) or ("", "{}")
        examples[row.example_id] = [row.example_id, (row.prompt or "")[:CHARS], json.loads(columns)]
    found = models.Completion.of(row).model_dump(mode="json", exclude={"prompt", "run_id"})
    cut = len(row.completion) > CHARS
    return {**found, "completion": row.completion[:CHARS], "truncated": found["truncated"] or cut}


def _versions(store: Store, row: RunRow) -> Iterator[tuple[str, Any]]:
    for one in queries.reward_versions(store, row.id):
        try:
            yield one.sha256, rollouts.version(store, row, one.sha256).model_dump(mode="json")
        except HTTPException:  # of files that made no version, or whose folder is gone, there are no sources
            continue
