"""One hash over what a run did, to tell whether two did the same. No times, hosts, attempts or error texts in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence

from runner.journal.events import is_timing
from runner.store.ingest import rollout_ids
from runner.store.store import Store

Line = Sequence[str | int | float | None]

_as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
TIMED_OUT = "not comparable: a time-out"
SMALLER = "not comparable: a smaller micro-batch after out of memory"
EDITED = "not comparable: rewards edited while running"


def digest(store: Store, run_id: str) -> tuple[str, str]:
    """sha256 (hex) over the run's rollouts, scores, metrics and last weights, and why it can't be compared (or "").

    Each row is a line of JSON, in an order that does not depend on when it was stored; floats as Python's `repr`, which
    tells every two different doubles apart.
    """
    sha = hashlib.sha256()
    for line in _lines(store, run_id):
        sha.update(_as_json(line).encode() + b"\n")
    return sha.hexdigest(), "; ".join(_notes(store, run_id))


def _lines(store: Store, run_id: str) -> Iterator[Line]:
    conn = store.db.conn
    yield from conn.execute(
        "SELECT 'rollout', split, step, group_id, idx, example_id, completion, n_tokens, finish_reason, reward, "
        "advantage, reward_version FROM rollouts WHERE run_id = ? ORDER BY split, step, group_id, idx",
        (run_id,),
    )
    yield from conn.execute(
        "SELECT 'score', r.split, r.step, r.group_id, r.idx, s.name, s.value, s.outcome, s.reason "
        "FROM rollouts r JOIN scores s ON s.rollout_id = r.id WHERE r.run_id = ? "
        "ORDER BY r.split, r.step, r.group_id, r.idx, s.name",
        (run_id,),
    )
    for name, step, value in conn.execute(
        "SELECT name, step, value FROM metrics WHERE run_id = ? ORDER BY name, step", (run_id,)
    ):
        if not is_timing(name):
            yield "metric", name, step, value
    yield from conn.execute(
        "SELECT 'weights', step, weights FROM checkpoints WHERE run_id = ? ORDER BY step DESC LIMIT 1", (run_id,)
    )


def _notes(store: Store, run_id: str) -> Iterator[str]:
    low, high = rollout_ids(store.run(run_id).number)
    conn = store.db.conn
    timed_out = "SELECT 1 FROM scores WHERE rollout_id > ? AND rollout_id < ? AND outcome IN ('timeout', 'killed')"
    if conn.execute(f"{timed_out} LIMIT 1", (low, high)).fetchone():
        yield TIMED_OUT
    alerts = "SELECT 1 FROM events WHERE run_id = ? AND type = 'alert' AND data ->> '$.code' = 'micro_batch' LIMIT 1"
    if conn.execute(alerts, (run_id,)).fetchone():
        yield SMALLER
    versions = "SELECT count(DISTINCT reward_version) FROM rollouts WHERE run_id = ?"
    if conn.execute(versions, (run_id,)).fetchone()[0] > 1:
        yield EDITED
