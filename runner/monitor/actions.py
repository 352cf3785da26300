"""What people do: routes that change something. Each names the right that it takes; the work is `runner.api`'s."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, HTTPException, Request

from runner import api
from runner.monitor import models
from runner.monitor.reading import OfRun, api_router, settings_of
from runner.monitor.runs import plain
from runner.monitor.settings import Right
from runner.store.store import Store


class Needs:
    """A dependency: the monitor grants this right."""

    def __init__(self, right: Right) -> None:
        self.right = right

    def __call__(self, request: Request) -> None:
        if self.right not in settings_of(request).rights:
            raise HTTPException(403, f"The monitor does not grant the right to {self.right}; --allow-edit does.")


router = api_router([Depends(Needs("control"))])


def _handle(request: Request, row: OfRun) -> api.RunHandle:
    return api.open_run(row.id, home=settings_of(request).home)


Handle = Annotated[api.RunHandle, Depends(_handle)]


@router.post("/runs/{run_id}/cancel")
def cancel(request: Request, handle: Handle) -> models.Run:
    """Ends a run for good, after a checkpoint if it is running."""
    handle.cancel()
    return _standing(request, handle)


@router.post("/runs/{run_id}/stop")
def stop(request: Request, handle: Handle) -> models.Run:
    """Asks for a checkpoint and an end that `resume` goes on from."""
    row = handle.row
    if not row.state.is_live:
        raise HTTPException(409, f"{row.id} is {row.state}; only a running run can be stopped.")
    handle.stop()
    return _standing(request, handle)


@router.post("/runs/{run_id}/resume")
def resume(request: Request, handle: Handle) -> models.Run:
    """Goes on with a held run from its last checkpoint, or starts a queued one; it does not end with the monitor."""
    handle.resume(wait=False, detach=True)
    return _standing(request, handle)


def _standing(request: Request, handle: api.RunHandle) -> models.Run:
    row = handle.row
    with Store.read_only(settings_of(request).database) as store:
        return plain(store, [row])[0]
