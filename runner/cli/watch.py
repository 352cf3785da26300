"""`runner watch`: the folder is the queue."""

from __future__ import annotations

from typing import Annotated

import typer

from runner.cli.jobs import home_of
from runner.cli.options import HomeOption
from runner.cli.out import note, say

ANOTHER_WATCH = 75
"""EX_TEMPFAIL: another watch holds this home."""


def watch(
    emulate: Annotated[bool, typer.Option("--emulate", help="Runs the jobs in miniature on the CPU.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Runs what there is to its end; 1 if any of it failed.")] = False,
    stop_jobs: Annotated[
        bool, typer.Option("--stop-jobs", help="The first signal stops the runs too, with a checkpoint.")
    ] = False,
    metrics_port: Annotated[
        int | None, typer.Option(metavar="PORT", min=0, max=65535, help="Serves /metrics on 127.0.0.1 (Prometheus).")
    ] = None,
    systemd: Annotated[bool, typer.Option("--systemd", help="Prints a unit file instead.")] = False,
    home: HomeOption = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object for each event on stdout.")] = False,
) -> None:
    """Runs what lies in jobs/, and whatever is put there. Ctrl-C leaves the runs alone, a second one stops them."""
    if systemd:
        from runner.watch.service import unit

        given = {"--emulate": emulate, "--stop-jobs": stop_jobs, "--json": json}
        port = ["--metrics-port", str(metrics_port)] if metrics_port is not None else []
        say(unit(home_of(home), [*(name for name, is_given in given.items() if is_given), *port]))
        return
    from runner.watch.daemon import Options, Watch
    from runner.watch.lock import AnotherWatch
    from runner.watch.log import Log

    options = Options(
        backend="emulator" if emulate else "trl", once=once, stop_jobs=stop_jobs, metrics_port=metrics_port
    )
    try:
        code = Watch(home_of(home), options, Log(as_json=json)).run()
    except AnotherWatch as error:
        note(("error: ", "bold red"), str(error))
        raise typer.Exit(ANOTHER_WATCH) from None
    raise typer.Exit(code)
