"""Edits of rewards go live in the runs that train, whoever started them. In a thread of its own: what a new version
needs (its packages, a slow disk) delays nobody.

Where the run's own terminal already publishes them, this one stands by (`runner.queue.publish`).
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Collection

from runner.queue.home import Home
from runner.queue.publish import Publisher
from runner.watch.log import Log

LOOK_SECONDS = 0.05


class Edits:
    """Publishes the edits of the runs that `follow` was last given."""

    def __init__(self, home: Home, log: Log) -> None:
        self._home, self._log = home, log
        self._alive: frozenset[str] = frozenset()
        self._publishers: dict[str, Publisher] = {}
        self._given_up: set[str] = set()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="edits", daemon=True)
        self._thread.start()

    def follow(self, alive: Collection[str]) -> None:
        """The runs that are alive now."""
        self._alive = frozenset(alive)
        if alive:
            self._wake.set()
        else:
            self._wake.clear()

    def close(self) -> None:
        """Lets other publishers take over."""
        self._closing.set()
        self._wake.set()
        self._thread.join(5)

    def _work(self) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            self._let_go(self._publishers.keys() - self._alive)
            for run_id in self._alive - self._given_up:
                self._look(run_id)
            if not self._alive:
                self._wake.wait()
        self._let_go(list(self._publishers))

    def _look(self, run_id: str) -> None:
        try:
            if run_id not in self._publishers:
                self._publishers[run_id] = Publisher(self._home.run(run_id))
            self._publishers[run_id].look()
        except OSError:  # a full disk, files that are just being replaced: looked at again
            pass
        except Exception:  # a defect that one job's files show must not cost the others their edits
            self._given_up.add(run_id)
            error = traceback.format_exc()
            self._log("defect", level="error", run=run_id, hint="its reward edits are not taken up", error=error)

    def _let_go(self, run_ids: Collection[str]) -> None:
        for run_id in list(run_ids):
            self._publishers.pop(run_id).close()
