"""Which waiting calls go to which worker next, and whose calls are taken away again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from runner.rewards.calls import Batch, Call
from runner.rewards.processes import State, Worker
from runner.rewards.teams import Mode, Team

STEAL_SECONDS = 0.05
"""A call that runs so long has the calls behind it taken away, when another worker is idle."""


class Message(NamedTuple):
    """Calls for a worker, to be given before the next message is asked for."""

    worker: Worker
    calls: list[Call]
    team: Team
    mode: Mode


def messages(batch: Batch, workers: Sequence[Worker], pace: Sequence[float], *, careful: bool) -> Iterator[Message]:
    """What can be given out now. `careful`: one call at a time, for a zygote was lost and nobody knows by whom."""
    now = time.monotonic()
    batch.wake(now)
    yield from _to_be_tried_alone(batch, workers, careful)
    for team, calls in batch.waiting.items():
        if calls:
            yield from _for_team(batch, team, workers, pace, now, careful)


def steal(batch: Batch, workers: Sequence[Worker]) -> None:
    """Takes the calls behind a slow one away when a worker has nothing to do; the slow one's worker then ends."""
    now = time.monotonic()
    for worker in workers:
        team = worker.team
        if team is None or team.one_by_one or worker.state is not State.READY or batch.waiting[team]:
            continue
        if worker.current is not None and batch.is_whole(worker.current):
            continue  # the calls behind it are answered with it
        if now > worker.since + STEAL_SECONDS and any(other.is_idle_for(team) for other in workers):
            worker.look_at_draft()
            if calls := worker.unstarted():
                worker.drop_unstarted()
                worker.is_last = True
                batch.put_back(calls)


def _to_be_tried_alone(batch: Batch, workers: Sequence[Worker], careful: bool) -> Iterator[Message]:
    """One call for a fresh worker, which ends with it."""
    for worker in workers if batch.alone else ():
        if batch.alone and worker.is_fresh and worker.state is State.READY and not (careful and _are_busy(workers)):
            call = batch.alone.popleft()
            team = batch.team(call)
            yield Message(worker, [call], team, "isolated" if team.mode == "isolated" else "plain")
            worker.is_last = True


def _for_team(
    batch: Batch, team: Team, workers: Sequence[Worker], pace: Sequence[float], now: float, careful: bool
) -> Iterator[Message]:
    """Round by round: idle workers first, used ones before fresh ones."""
    busy = sum(bool(worker.messages) and worker.team is team for worker in workers)
    given = True
    while given and batch.waiting[team]:
        given = False
        ready = [worker for worker in workers if worker.has_room(team, pace)]
        for worker in sorted(ready, key=lambda worker: (len(worker.messages), worker.is_fresh)):
            was_idle = not worker.messages
            if (was_idle and busy >= team.size) or (careful and _are_busy(workers)):
                continue
            if calls := batch.take(team, pace, now, prefetch=not was_idle):
                given = True
                yield Message(worker, calls, team, team.mode)
                busy += was_idle


def _are_busy(workers: Sequence[Worker]) -> bool:
    return any(worker.messages for worker in workers)
