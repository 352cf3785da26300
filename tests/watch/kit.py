"""Two ways to drive a watch in tests: its folder logic alone under a clock of ours, and the whole as a process."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from runner.journal.folder import write_json
from runner.journal.states import Reason, State
from runner.queue.home import Home
from runner.queue.supervise import boot_id
from runner.watch.config import Config
from runner.watch.desk import Desk
from runner.watch.keeper import Keeper
from runner.watch.log import Log
from tests.cli.kit import command, environment
from tests.small_job import write_job

Sql = list[tuple[Any, ...]]


def rows(home: Path, sql: str, *params: object) -> Sql:
    """What anybody's sqlite3 reads of the database."""
    with sqlite3.connect(f"file:{home}/.runner/runner.db?mode=ro", uri=True, timeout=20) as db:
        return db.execute(sql, params).fetchall()


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


class Folder:
    """A home whose folder is looked at by hand; time passes when we say so."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.jobs = path / "jobs"
        self.jobs.mkdir(exist_ok=True)
        self.now = 1000.0
        self.wall_jump = 0.0
        self._locks: dict[str, int] = {}
        self.said: list[dict[str, Any]] = []
        self.store = Home(path).open()
        self.restart()

    def restart(self) -> None:
        """Another watch over the same home."""
        home, log = Home(self.path), Log(write=lambda line: None)
        log.listen(self.said.append)
        self.desk = Desk(home, self.store, "emulator", log, lambda: self.now, lambda: time.time() + self.wall_jump)
        self.keeper = Keeper(home, self.store, self.desk, Config(), log, lambda: self.now)

    def look(self, *, after: float = 0.0) -> None:
        """One look, so many seconds later."""
        self.now += after
        self.desk.look()

    def settle(self, seconds: float = 0.0) -> None:
        """Looks until every file is judged, and on until the seconds are over."""
        end = self.now + seconds
        self.look()
        for _ in range(200):
            if self.desk.is_settled and self.now >= end:
                return
            self.look(after=0.4)
        raise AssertionError("it does not settle")

    def write(self, name: str = "sums", **sections: Any) -> Path:
        """A new job, or the job written again with other sections."""
        if not (self.jobs / name).exists():
            return write_job(self.path, name=name, **sections)
        other = self.path / "other"
        path = write_job(other, name=name, **sections)
        target = self.jobs / name / "job.yaml"
        target.write_text(path.read_text())
        subprocess.run(["rm", "-r", str(other)], check=True)
        return target

    def runs(self) -> list[tuple[str, str]]:
        """(id, state) of every run, in the order of submission."""
        return [(run_id, state) for run_id, state in self._select("SELECT id, state FROM runs ORDER BY number")]

    def why(self, run_id: str) -> tuple[str | None, str]:
        run = self.store.run(run_id)
        return run.reason, run.detail

    def states(self) -> dict[str, str]:
        """name → state of every job file."""
        return dict(self._select("SELECT name, state FROM jobs"))

    def error(self, name: str) -> str:
        [(errors,)] = self._select(f"SELECT errors FROM jobs WHERE name = '{name}'")
        return str(json.loads(errors)[0]["message"])

    def begin(self, run_id: str) -> None:
        """As if its supervisor and its trainer had started: its lock is held."""
        folder, claim = Home(self.path).run(run_id), self.store.claim(run_id, boot_id=boot_id())
        assert claim.run is not None
        lock = folder.take_lock()
        assert lock is not None
        self._locks[run_id] = lock
        folder.attempt(claim.attempt).mkdir(parents=True)
        handle = {
            "pid": os.getpid(),
            "start_time": -1,
        }  # of a process that is not the one any more: nobody is signalled
        write_json(folder.attempt(claim.attempt) / "handle.json", handle)
        self.store.transition(run_id, State.RUNNING)

    def vanish(self, run_id: str) -> None:
        """As if its processes were gone without a word."""
        os.close(self._locks.pop(run_id))

    def finish(self, run_id: str, reason: Reason = Reason.FINISHED, state: State = State.SUCCEEDED) -> None:
        if run_id not in self._locks:
            self.begin(run_id)
        self.store.transition(run_id, state, reason)
        self.vanish(run_id)

    def close(self) -> None:
        for run_id in list(self._locks):
            self.vanish(run_id)
        self.store.close()

    def _select(self, sql: str) -> Sql:
        return self.store.db.conn.execute(sql).fetchall()


class WatchProcess:
    """`runner watch` as a process of its own, and what it says."""

    started: ClassVar[list[WatchProcess]] = []

    def __init__(self, home: Path, *args: str, **env: str) -> None:
        self.home = home
        self.said: list[dict[str, Any]] = []
        self._stderr = home / "watch.stderr"
        with self._stderr.open("a") as errors:
            self.process = subprocess.Popen(
                command("watch", "--json", "--home", home, *args, *([] if "--ui-port" in args else ["--no-ui"])),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**environment(), **env},
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.started.append(self)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))

    def heard(self, event: str, **fields: object) -> list[dict[str, Any]]:
        return [said for said in list(self.said) if said["event"] == event and fields.items() <= said.items()]

    def wait_for(self, event: str, seconds: float = 60, **fields: object) -> dict[str, Any]:
        until(lambda: self.heard(event, **fields) or self.process.poll() is not None, seconds)
        assert self.heard(event, **fields), (event, fields, self.said, self._errors())
        return self.heard(event, **fields)[0]

    def end(self, number: int = signal.SIGTERM, seconds: float = 60) -> int:
        self.process.send_signal(number)
        return self.wait(seconds)

    def wait(self, seconds: float = 120) -> int:
        code = self.process.wait(seconds)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def _errors(self) -> str:
        return self._stderr.read_text()
