"""A recorded home, a monitor over it, and clients: one that asks politely, one that writes bytes to the socket."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.monitor.server import Monitor
from runner.monitor.settings import Settings
from runner.store.store import Store
from tests.store.builders import submission, trained, write_journal

TOKEN = "a-secret-of-thirty-two-bytes-or-so"
CHROME = {"sec-fetch-site": "same-origin"}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str:
        return str(self.json["code"])


def record(home: Path, *journals: list[Any], job: str = "countdown") -> str:
    """A run with these journals, one for each attempt, taken in; a whole short training when none is given."""
    with Store.open(home / ".runner" / "runner.db") as store:
        run_id = store.submit(submission(job))
        store.claim(run_id)
        for attempt, events in enumerate(journals or (trained(),), 1):
            write_journal(store, run_id, events, attempt)
        store.ingest(run_id)
        return run_id


def settings(home: Path, token: str | None = None, **more: Any) -> Settings:
    return Settings(home=home, token=token, **more)


def ask(
    monitor: Monitor,
    path: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    """One request; redirects are not followed."""
    connection = http.client.HTTPConnection("127.0.0.1", monitor.port, timeout=60)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        text = response.read().decode()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, text)
    finally:
        connection.close()


def get(monitor: Monitor, path: str) -> Any:
    """The JSON of a page of the API that must be there."""
    answer = ask(monitor, f"/api/v1/{path}")
    assert answer.status == 200, answer.text
    return answer.json


def raw(monitor: Monitor, *lines: str, body: bytes = b"") -> Answer:
    """A request written to the socket as it stands: nothing is added, put right or left out."""
    with socket.create_connection(("127.0.0.1", monitor.port), timeout=60) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        response = http.client.HTTPResponse(connection)
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read().decode(errors="replace"))
