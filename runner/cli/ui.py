"""`runner ui`: the monitor's web pages over a home."""

from __future__ import annotations

import sys
import time
import webbrowser
from typing import Annotated

import typer

from runner.cli.jobs import home_of
from runner.cli.options import HomeOption
from runner.cli.out import note, say

PORT = 8765


def ui(
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any but the loopback's needs --allowed-host.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = PORT,
    allowed_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name that the pages may be called by. Repeatable.")
    ] = None,
    token: Annotated[bool, typer.Option("--token/--no-token", help="--no-token: asks nobody who they are.")] = True,
    allow_edit: Annotated[
        bool, typer.Option("--allow-edit", help="The reward lab: pages may run, publish and save reward code.")
    ] = False,
    open_: Annotated[bool, typer.Option("--open", help="Opens the pages in a browser.")] = False,
    home: HomeOption = None,
) -> None:
    """Shows jobs, runs, completions and rewards in a browser. Until Ctrl-C; runs go on without it."""
    from runner.monitor.server import AddressTaken, Monitor, serves, url_of
    from runner.monitor.settings import Settings, is_loopback
    from runner.monitor.token import read_or_make

    _refuse_open_doors(is_loopback(host), host, allowed_host or [], token)
    if allow_edit and not token:
        raise typer.BadParameter(
            "--allow-edit needs the token: without it every user of this machine could run code as you."
        )
    where = home_of(home)
    secret = read_or_make(where.state) if token else None
    settings = Settings(
        home=where.path,
        token=secret,
        allowed_hosts=frozenset(name.lower() for name in allowed_host or ()),
        right="edit" if allow_edit else "control",
    )
    try:
        monitor = Monitor(settings, host=host, port=port)
    except AddressTaken as error:
        if serves(settings, port):
            _show_again(url_of(host, port), secret, open_)
            return
        raise typer.BadParameter(str(error)) from None
    with monitor:
        _tell(monitor.link(), is_loopback(host), token, monitor.port)
        if open_:
            webbrowser.open(monitor.link())
        _wait()


def _wait() -> None:
    """Until Ctrl-C, which is how this ends."""
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        note("the pages are closed")


def _show_again(url: str, secret: str | None, open_: bool) -> None:
    from runner.monitor.token import link

    say(link(url, secret))
    note("the monitor of this home is running already; it goes on")
    if open_:
        webbrowser.open(link(url, secret))


def _refuse_open_doors(loopback: bool, host: str, allowed: list[str], token: bool) -> None:
    if loopback:
        return
    if not allowed:
        raise typer.BadParameter(
            f"{host} can be reached from other machines. Say by which name: --allowed-host NAME. Safer: leave --host "
            f"away and connect with `ssh -L {PORT}:127.0.0.1:{PORT} <this machine>`."
        )
    if not token:
        raise typer.BadParameter(f"--no-token is for the loopback only; {host} can be reached from other machines.")


def _tell(link: str, loopback: bool, token: bool, port: int) -> None:
    """The link is the result; what a person should know about it goes to stderr."""
    say(link)
    sys.stdout.flush()  # a pipe would keep it until the end, and this goes on
    if not token:
        note(("no token: ", "bold yellow"), "every user of this machine can see, start and end runs here")
    else:
        note("the link works once, within a day; `runner ui` prints another")
    if not loopback:
        note(
            ("warning: ", "bold yellow"),
            f"reached from other machines, unencrypted; `ssh -L {port}:127.0.0.1:{port}` is safer",
        )
    note("Ctrl-C ends the pages; runs go on")
