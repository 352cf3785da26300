"""The rewards that scored a run. Its spec has those it was submitted with; edits may have added, changed, removed some.

Read from the versions in the run folder, for only there is what each of them says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.rewards.bundle import Function, read
from runner.store import queries
from runner.store.rows import RunRow
from runner.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardInForce:
    """A reward of a run, as it was last in force."""

    name: str
    weight: float
    trusted: bool
    on_error: str
    is_live: bool = True
    """False for one that an edit removed."""


def rewards_in_force(store: Store, run: RunRow) -> list[RewardInForce]:
    """Those of the version that scores, or scored last, in its order; then those that only earlier versions had. Those
    of the spec before the run has begun, and where the versions' files are gone."""
    folder = store.folder(run).rewards
    rows = [row for row in queries.reward_versions(store, run.id) if row.state in ("active", "retired", "rejected")]
    rows = [row for row in rows if row.first_step is not None]
    rows.sort(key=lambda row: (row.state == "active", row.version))
    try:
        versions = [read(folder / row.sha256).functions for row in reversed(rows)]
    except (OSError, ValueError):
        versions = []
    found: dict[str, RewardInForce] = {}
    for place, functions in enumerate(versions):
        for function in functions:
            found.setdefault(function.name, _of(function, is_live=place == 0))
    return [*found.values()] or _of_spec(json.loads(run.spec))


def _of(function: Function, *, is_live: bool) -> RewardInForce:
    return RewardInForce(
        name=function.name,
        weight=function.weight,
        trusted=function.trusted,
        on_error=function.on_error,
        is_live=is_live,
    )


def _of_spec(spec: Mapping[str, Any]) -> list[RewardInForce]:
    """`spec` may be one that another release recorded."""
    rewards: dict[str, dict[str, Any]] = spec.get("rewards", {})
    return [
        RewardInForce(
            name=name,
            weight=reward.get("weight", 1.0),
            trusted=reward.get("trusted", False),
            on_error=reward.get("on_error", "mask"),
        )
        for name, reward in rewards.items()
    ]
