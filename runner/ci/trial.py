"""One ended run, read for its verdict."""

from __future__ import annotations

from runner.api import RunHandle
from runner.ci.checks import Trial
from runner.store import queries
from runner.store.store import Store


def read_trial(handle: RunHandle, seed: int) -> Trial:
    """Everything that the checks and the reports need of a run."""
    with handle.reading() as store:
        series = queries.metrics(store, handle.id)
        outcomes = queries.outcomes(store, handle.id)
        failed = dict.fromkeys(row.name for row in outcomes if row.outcome not in ("ok", "none"))
        return Trial(
            seed=seed,
            handle=handle,
            run=store.run(handle.id),
            metrics={
                name: [(step, value) for step, value in values if value is not None] for name, values in series.items()
            },
            outcomes=outcomes,
            ranges=queries.value_ranges(store, handle.id),
            failures={name: _first_failure(store, handle.id, name) for name in failed},
        )


def _first_failure(store: Store, run_id: str, name: str) -> str:
    """Outcome, type and message of the first failed call, and its innermost line in the job's own files."""
    for row in queries.reward_logs(store, run_id, name=name):
        if row.outcome not in ("ok", "none"):
            head, *frames = (row.error or "").split("\n")
            places = [frame.strip() for frame in frames if ".py:" in frame and not frame.strip().startswith("/")]
            place = f" ({places[-1].split(' in ')[0]})" if places else ""
            return f"{row.outcome}, {head}{place}" if head else str(row.outcome)
    return ""
