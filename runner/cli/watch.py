"""`runner watch`: the folder is the queue."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli.jobs import home_of
from runner.cli.options import HomeOption
from runner.cli.out import is_terminal, note, say
from runner.cli.ui import PORT

if TYPE_CHECKING:
    from runner.queue.home import Home
    from runner.watch.log import Log

ANOTHER_WATCH = 75
"""EX_TEMPFAIL: another watch holds this home."""


def watch(
    emulate: Annotated[bool, typer.Option("--emulate", help="Runs the jobs in miniature on the CPU.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Runs what there is to its end; 1 if any of it failed.")] = False,
    stop_jobs: Annotated[
        bool, typer.Option("--stop-jobs", help="The first signal stops the runs too, with a checkpoint.")
    ] = False,
    ui: Annotated[
        bool | None, typer.Option("--ui/--no-ui", help="Shows the pages of `runner ui`, too. Not with --once.")
    ] = None,
    ui_port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="Of the pages, on 127.0.0.1. 0 takes a free one.")
    ] = PORT,
    metrics_port: Annotated[
        int | None, typer.Option(metavar="PORT", min=0, max=65535, help="Serves /metrics on 127.0.0.1 (Prometheus).")
    ] = None,
    systemd: Annotated[bool, typer.Option("--systemd", help="Prints a unit file instead.")] = False,
    home: HomeOption = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object for each event on stdout.")] = False,
) -> None:
    """Runs what lies in jobs/, and whatever is put there. Ctrl-C leaves the runs alone, a second one stops them."""
    where = home_of(home)
    if systemd:
        from runner.watch.service import unit

        given = {"--emulate": emulate, "--stop-jobs": stop_jobs, "--json": json, "--no-ui": ui is False}
        ports = {"--ui-port": ui_port if ui_port != PORT else None, "--metrics-port": metrics_port}
        options = [text for name, port in ports.items() if port is not None for text in (name, str(port))]
        say(unit(where, [*(name for name, is_given in given.items() if is_given), *options]))
        return
    from runner.watch.daemon import Options, Watch
    from runner.watch.lock import AnotherWatch
    from runner.watch.log import Log

    options = Options(
        backend="emulator" if emulate else "trl", once=once, stop_jobs=stop_jobs, metrics_port=metrics_port
    )
    log = Log(as_json=json)
    try:
        watching = Watch(where, options, log)
    except AnotherWatch as error:
        note(("error: ", "bold red"), str(error))
        raise typer.Exit(ANOTHER_WATCH) from None
    if not once if ui is None else ui:
        _beside(lambda: _show_pages(where, ui_port, emulate, log))
    raise typer.Exit(watching.run())


def _beside(work: Callable[[], None]) -> None:
    """The pages take a second to load; jobs don't wait for them."""
    threading.Thread(target=work, name="pages", daemon=True).start()


def _show_pages(home: Home, port: int, emulate: bool, log: Log) -> None:
    """For as long as this process lives. Without them the watch does its work all the same."""
    try:
        from runner.monitor.server import Monitor
        from runner.monitor.settings import Settings
        from runner.monitor.token import read_or_make

        monitor = Monitor(Settings(home=home.path, token=read_or_make(home.state), emulate=emulate), port=port)
    except Exception as error:  # whatever is wrong with the pages is no reason to leave the jobs alone
        hint = "the watch works without its pages; `runner ui` shows them, --ui-port and --no-ui change this"
        log("pages_unavailable", level="warning", error=str(error) or type(error).__name__, hint=hint)
        return
    log("pages", address=monitor.url, hint="`runner ui` gives a link that opens them")
    if is_terminal(sys.stderr):
        note(monitor.link())
