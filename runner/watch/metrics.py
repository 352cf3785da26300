"""`/metrics` for Prometheus, and `/healthz`: a small HTTP server on the loopback address, in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from runner.journal.states import State
from runner.queue.home import Home
from runner.store import queries
from runner.store.errors import StoreError
from runner.store.store import Store

TYPE = "text/plain; version=0.0.4; charset=utf-8"
SILENT_SECONDS = 60.0
"""A loop that has not gone round for so long is not healthy."""


@dataclass(slots=True)
class Gauges:
    """What the loop knows and the database doesn't."""

    looked_at: float = 0.0
    look_seconds: float = 0.0
    jobs: int = 0
    invalid: int = 0
    free_bytes: int = 0
    notify_failures: int = 0


def render(home: Home, gauges: Gauges) -> str:
    """The exposition text."""
    return "".join(f"{line}\n" for line in _lines(home, gauges))


def _lines(home: Home, gauges: Gauges) -> Iterator[str]:
    yield from _family(
        "runner_watch_last_look_timestamp_seconds", "When the folder was last looked at.", gauges.looked_at
    )
    yield from _family("runner_watch_look_seconds", "What the last look took.", gauges.look_seconds)
    yield from _family("runner_jobs", "Sound job files.", gauges.jobs)
    yield from _family("runner_jobs_invalid", "Job files that are wrong.", gauges.invalid)
    yield from _family("runner_disk_free_bytes", "Room where the runs are recorded.", gauges.free_bytes)
    yield from _family("runner_notify_failures", "Notifications that could not be delivered.", gauges.notify_failures)
    with Store.read_only(home.database) as store:
        yield from _runs(store)


def _family(name: str, text: str, value: float) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} gauge"
    yield f"{name} {value:g}" if value < 1e6 else f"{name} {value:.3f}"


def _runs(store: Store) -> Iterator[str]:
    counts: dict[tuple[str, str], int] = {}
    sql = "SELECT state, backend, count(*) FROM runs GROUP BY state, backend"
    for state, backend, count in store.db.conn.execute(sql):
        counts[state, backend] = count
    yield "# HELP runner_runs Runs by state."
    yield "# TYPE runner_runs gauge"
    for backend in sorted({backend for _, backend in counts}) or ["trl"]:
        for state in State:
            yield f'runner_runs{{state="{state}",backend="{backend}"}} {counts.get((str(state), backend), 0)}'
    yield "# HELP runner_run_step Last finished step of a run that is alive."
    yield "# TYPE runner_run_step gauge"
    alive = queries.live(store)
    for run_id in alive:
        yield f'runner_run_step{{run="{run_id}"}} {store.run(run_id).last_step}'
    yield "# HELP runner_run_reward Mean reward of its last step."
    yield "# TYPE runner_run_reward gauge"
    for run_id in alive:
        reward = queries.last_metrics(store, run_id).get("reward")
        if reward is not None:
            yield f'runner_run_reward{{run="{run_id}"}} {reward:g}'


def serve(home: Home, gauges: Gauges, port: int) -> tuple[int, Callable[[], None]]:
    """Begins to answer on 127.0.0.1; gives the port (0 asks for a free one) and what ends it. Raises OSError."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._metrics()
            elif self.path == "/healthz":
                well = time.time() - gauges.looked_at < SILENT_SECONDS
                self._answer(200 if well else 503, "ok\n" if well else "the loop is silent\n")
            else:
                self._answer(404, "only /metrics and /healthz\n")

        def _metrics(self) -> None:
            try:
                self._answer(200, render(home, gauges))
            except StoreError as error:
                self._answer(503, f"{error}\n")

        def _answer(self, code: int, text: str) -> None:
            data = text.encode()
            self.send_response(code)
            self.send_header("Content-Type", TYPE)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server.server_port, server.shutdown
