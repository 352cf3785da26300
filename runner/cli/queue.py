"""The verbs that put runs in the queue, start them again, or end them."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from runner.cli.jobs import home_of
from runner.cli.options import DetachOption, DeviceOption, HomeOption, JobArgument, JsonOption, RunArgument, SetOption
from runner.cli.out import note, say, say_json


def submit(
    job: JobArgument,
    backend: Annotated[
        Literal["trl", "emulator"], typer.Option(help="What is to train it: trl (a GPU) or the emulator.")
    ] = "trl",
    device: DeviceOption = "gpu",
    set_: SetOption = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Puts a job in the queue. It is not started."""
    from runner import api
    from runner.queue.jobs import find_job

    handle = api.submit(find_job(job, home_of(home)), backend=backend, device=device, overrides=set_ or (), home=home)
    if json:
        say_json({"run": handle.id, "state": handle.row.state})
    else:
        say(handle.id)
        note(f"queued; `runner resume {handle.id}` starts it")


def resume(run: RunArgument, detach: DetachOption = False, home: HomeOption = None, json: JsonOption = False) -> None:
    """Goes on with a held run. From its last checkpoint; a queued run is started."""
    from runner import api
    from runner.cli.train import finish
    from runner.store import queries

    handle = api.open_run(run, home=home)
    with handle.reading() as store:
        seen = queries.last_event(store, handle.id)
    finish(api.resume(handle.id, home=handle.home.path, wait=False, detach=detach), detach, json, after=seen)


def rerun(
    run: RunArgument,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="STEP", help="Goes on from the checkpoint of this STEP, or of RUN@STEP."),
    ] = None,
    set_: SetOption = None,
    detach: DetachOption = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Makes a new run of a run's job. With the job's files as they are now; from scratch, or from a checkpoint."""
    from runner import api
    from runner.cli.train import finish

    source, step = _origin(run, from_)
    handle = api.rerun(source, at=step, overrides=set_ or (), home=home, wait=False, detach=detach)
    finish(handle, detach, json)


def _origin(run: str, origin: str | None) -> tuple[str, int | None]:
    if origin is None:
        return run, None
    source, _, step = origin.rpartition("@")
    if not step.isdecimal():
        raise typer.BadParameter(f"{origin!r} is no step; write --from 50 or --from RUN@50")
    return source or run, int(step)


def cancel(run: RunArgument, home: HomeOption = None, json: JsonOption = False) -> None:
    """Ends a run for good. A running one writes a checkpoint first."""
    from runner import api

    handle = api.open_run(run, home=home)
    handle.cancel()
    row = handle.row
    if json:
        say_json({"run": row.id, "state": row.state, "want": row.want})
    elif row.state.is_live:
        say(f"{row.id}: cancelling; it finishes its step and writes a checkpoint")
    else:
        say(f"{row.id}: {row.state}")
