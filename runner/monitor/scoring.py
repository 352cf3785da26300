"""The process in which stored completions are scored again: `python -m runner.monitor.scoring`.

Its first line of input is the request; each line of its output is a JSON object: `{"done", "total"}` after each step,
and last `{"result"}` or `{"error"}`. The monitor stays free meanwhile, and to end the process is to cancel. It ends by
itself when its input does: with whoever started it.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from runner.rescoring import Rescored, Total, rescore_edited
from runner.spec.errors import JobError
from runner.store.errors import StoreError

MOVED = 100
"""Completions whose totals have changed that are given, most changed first."""
CHARS = 2000
"""Of each of their texts."""
POINTS = 600
"""Totals before and after, for the picture."""


def main() -> None:
    request: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_input, daemon=True).start()
    try:
        say(result=plain(_rescored(request)))
    except (JobError, StoreError, ValueError) as error:
        say(error=getattr(error, "detail", "") or str(error))


def _rescored(request: dict[str, Any]) -> Rescored:
    return rescore_edited(
        request["run"],
        request["base"],
        request["files"],
        steps=(request["first"], request["last"]),
        split=request["split"],
        home=request["home"],
        tell=lambda done, total: say(done=done, total=total),
    )


def plain(found: Rescored) -> dict[str, Any]:
    """What the pages show of it."""
    pairs = [(one.before, one.after) for one in found.totals if one.before is not None and one.after is not None]
    every = max(1, math.ceil(len(pairs) / POINTS))
    return {
        "version": found.version,
        "steps": [found.steps[0], found.steps[-1]],
        "completions": found.completions,
        "changes": [asdict(one) for one in found.changes],
        "failed": dict(found.failed),
        "failures": [asdict(one) for one in found.failures],
        "points": pairs[::every],
        "moved": [{**asdict(one), "completion": one.completion[:CHARS]} for one in _moved(found.totals)],
    }


def _moved(totals: Sequence[Total]) -> list[Total]:
    """A completion that left its group, or came back to it, has moved most."""

    def by(one: Total) -> float:
        return math.inf if one.before is None or one.after is None else abs(one.after - one.before)

    changed = [one for one in totals if one.before != one.after and by(one) > 1e-9]
    return sorted(changed, key=by, reverse=True)[:MOVED]


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def _end_with_the_input() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
