"""The reward lab: edited rewards scored on stored completions, published as the next version, saved to the job's files.

All of it runs or writes reward code, so every route takes the right to edit. Scoring is a process of its own
(`runner.monitor.scoring`), one at a time for each run.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request

from runner.monitor import models
from runner.monitor.actions import Handle, Needs
from runner.monitor.reading import OfRun, Reading, api_router, settings_of
from runner.queue import publish
from runner.store import queries


class Scoring:
    """One re-scoring of a run, under way or over."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._lock = threading.Lock()
        self._state = models.Lab(state="scoring")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "runner.monitor.scoring"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C in the terminal is for the monitor, which ends it then
        )
        threading.Thread(target=self._follow, args=(request,), name="monitor-scoring", daemon=True).start()

    @property
    def state(self) -> models.Lab:
        with self._lock:
            return self._state

    def cancel(self) -> None:
        """Ends it. What is over stays as it is."""
        self._now(models.Lab(state="cancelled"))
        self._process.kill()

    def _now(self, state: models.Lab) -> None:
        with self._lock:
            if self._state.state == "scoring":
                self._state = state

    def _follow(self, request: dict[str, Any]) -> None:
        """Until the process ends. Its input stays open as long: it ends with this monitor."""
        told: list[str] = []
        with self._process as process:
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # ended before it was asked; what it said is told below
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            for line in process.stdout:
                if line.startswith(b"{"):
                    self._hear(json.loads(line))
                else:
                    told = [*told[-30:], line.decode(errors="replace")]
        self._now(models.Lab(state="failed", error="".join(told) or "The scoring process was ended."))

    def _hear(self, said: dict[str, Any]) -> None:
        if "error" in said:
            self._now(models.Lab(state="failed", error=said["error"]))
        elif "result" in said:
            self._now(models.Lab(state="done", result=models.Rescored.model_validate(said["result"])))
        else:
            self._now(models.Lab(state="scoring", done=said["done"], total=said["total"]))


class Labs:
    """The latest re-scoring of each run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[str, Scoring] = {}

    def begin(self, run_id: str, request: dict[str, Any]) -> models.Lab:
        with self._lock:
            if run_id in self._of and self._of[run_id].state.state == "scoring":
                raise HTTPException(409, f"Completions of {run_id} are being scored already; cancel that first.")
            self._of[run_id] = Scoring(request)
            return self._of[run_id].state

    def state(self, run_id: str) -> models.Lab:
        with self._lock:
            return self._of[run_id].state if run_id in self._of else models.Lab(state="idle")

    def cancel(self, run_id: str) -> None:
        with self._lock:
            if run_id in self._of:
                self._of[run_id].cancel()

    def close(self) -> None:
        """Leaves no process behind."""
        with self._lock:
            for scoring in self._of.values():
                scoring.cancel()


def _labs(request: Request) -> Labs:
    found: Labs = request.app.state.labs
    return found


OfLabs = Annotated[Labs, Depends(_labs)]
router = api_router([Depends(Needs("control")), Depends(Needs("edit"))])


@router.get("/runs/{run_id}/lab")
def lab(row: OfRun, labs: OfLabs) -> models.Lab:
    """How the run's latest re-scoring stands."""
    return labs.state(row.id)


@router.post("/runs/{run_id}/lab")
def rescore(request: Request, store: Reading, row: OfRun, labs: OfLabs, wanted: models.RescoreRequest) -> models.Lab:
    """Scores the completions of the last steps under edited files, in the background."""
    steps = queries.steps(store, row.id, wanted.split)[-wanted.last_steps :]
    if not steps:
        raise HTTPException(409, f"{row.id} has no completions of this split yet.")
    asked = {"run": row.id, "home": str(settings_of(request).home), "first": steps[0], "last": steps[-1]}
    return labs.begin(row.id, {**asked, **wanted.model_dump(include={"base", "files", "split"})})


@router.delete("/runs/{run_id}/lab")
def cancel_rescore(row: OfRun, labs: OfLabs) -> models.Lab:
    """Ends the re-scoring that is under way."""
    labs.cancel(row.id)
    return labs.state(row.id)


@router.post("/runs/{run_id}/versions")
def publish_version(handle: Handle, edited: models.Publication) -> models.Published:
    """Publishes edited files as the run's next reward version; the trainer checks it and puts it live at a step."""
    with handle.home.open() as store:
        made = publish.publish_sources(handle.home, store, handle.id, edited.base, edited.files, edited.expected)
    return models.Published(sha256=made)


@router.post("/runs/{run_id}/rollback")
def rollback(handle: Handle, to: models.VersionNumber) -> models.Published:
    """Puts an earlier reward version live again, at the next step."""
    with handle.home.open() as store:
        row = publish.rollback(handle.home, store, handle.id, to.version)
    return models.Published(sha256=row.sha256)


@router.post("/runs/{run_id}/accept")
def accept(handle: Handle) -> models.Published:
    """Lets the version that waits for a word (`reload: ask`) go live."""
    with handle.home.open() as store:
        row = publish.accept(handle.home, store, handle.id)
    return models.Published(sha256=row.sha256)


@router.post("/runs/{run_id}/save")
def save(handle: Handle, edited: models.Edited) -> models.Saved:
    """Writes edited files into the job's folder, where nobody else has edited them since."""
    folder = handle.home.run(handle.id)
    return models.Saved(paths=[str(path) for path in publish.save_sources(folder, edited.base, edited.files)])
