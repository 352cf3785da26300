"""How fast and how much a reward function may be called, where a service counts: rate and budget, and what was used.

What was used is kept in the run folder, so that a budget holds over all attempts of a run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from runner.rewards.bundle import Function

BURST_SECONDS = 1.0
"""What could have been used in this time may be used at once."""


class Meter:
    """The rate and the budget of one function."""

    def __init__(self, function: Function) -> None:
        self.calls = self.tokens = 0
        self.is_limited = bool(function.rpm or function.tpm or function.max_calls or function.max_tokens)
        self._function = function
        self._rates = [rate / 60 if rate else 0.0 for rate in (function.rpm, function.tpm)]
        self._stock = [max(rate * BURST_SECONDS, 1.0) for rate in self._rates]
        self._at = 0.0

    def delay(self, now: float) -> float:
        """Seconds until the next call may start; 0: now."""
        self._refill(now)
        calls, tokens = self._rates
        waits = [(1 - self._stock[0]) / calls if calls else 0.0, -self._stock[1] / tokens if tokens else 0.0]
        return max(0.0, *waits)

    def start(self, now: float) -> None:
        """A call starts."""
        self.calls += 1
        if self.is_limited:
            self._refill(now)
            self._stock[0] -= 1

    def use(self, tokens: int) -> None:
        """A call says that it used tokens; later calls wait until the rate has caught up."""
        self._stock[1] -= tokens
        self.tokens += tokens

    def used_up(self) -> str:
        """What of the budget is used up, in words; empty while there is some left."""
        limits = ((self.calls, self._function.max_calls, "calls"), (self.tokens, self._function.max_tokens, "tokens"))
        spent = [f"{limit} {what}" for used, limit, what in limits if limit is not None and used >= limit]
        return f"its budget of {' and '.join(spent)} is used up" if spent else ""

    def _refill(self, now: float) -> None:
        seconds = now - self._at if self._at else 0.0
        self._at = now
        for i, rate in enumerate(self._rates):
            self._stock[i] = min(self._stock[i] + rate * seconds, max(rate * BURST_SECONDS, 1.0))


class Meters:
    """Those of a version's functions, and the file in which they last from one attempt to the next."""

    def __init__(self, functions: Sequence[Function], folder: Path | None) -> None:
        has_budget = any(function.max_calls or function.max_tokens for function in functions)
        self._names = [function.name for function in functions]
        self._file = folder / "spent.json" if folder is not None and has_budget else None
        self.of = [Meter(function) for function in functions]
        self.load()

    def load(self) -> None:
        """Takes over what earlier attempts, or another version of these rewards, used."""
        if self._file is not None and self._file.exists():
            used: dict[str, list[int]] = json.loads(self._file.read_text())
            for name, meter in zip(self._names, self.of, strict=True):
                meter.calls, meter.tokens = used.get(name, (0, 0))

    def save(self) -> None:
        """Keeps what was used of budgets."""
        if self._file is not None:
            used = {name: [meter.calls, meter.tokens] for name, meter in zip(self._names, self.of, strict=True)}
            part = self._file.with_suffix(".part")
            part.write_text(json.dumps(used))
            os.replace(part, self._file)
