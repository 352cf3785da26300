"""Trackers (TensorBoard, W&B, Trackio, MLflow) that a job asks for: told the metrics, never able to fail the run.

They are third-party code that opens networks and files, so whatever they raise is caught here: the tracker is left out
from then on and the run's record says why. The run's own record does not depend on them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partialmethod
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks

from runner.grpo.run import Run

EVENTS = [name for name in dir(TrainerCallback) if name.startswith("on_")]


def trackers(names: Sequence[str], run: Run) -> list[TrainerCallback]:
    """A guarded callback for each tracker that could be set up; an alert for each that could not."""
    if names:
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(run.folder / "tensorboard"))
        os.environ.setdefault("WANDB_DIR", str(run.folder))
        os.environ.setdefault("WANDB_PROJECT", "grpo-runner")
        os.environ.setdefault("MLFLOW_TRACKING_URI", f"file://{run.folder / 'mlruns'}")
    made = [Guarded(name, run) for name in names]
    return [tracker for tracker in made if tracker.inner is not None]


class Guarded(TrainerCallback):
    """Passes every event on to one tracker until that raises."""

    def __init__(self, name: str, run: Run) -> None:
        self._name, self._run = name, run
        self.inner: Any = None
        """The tracker; None once it has failed."""
        try:
            [kind] = get_reporting_integration_callbacks([name])
            self.inner = kind()
        except Exception as error:
            self._leave_out(error)

    def pass_on(self, event: str, *args: Any, **kwargs: Any) -> None:
        if self.inner is None:
            return
        try:
            getattr(self.inner, event)(*args, **kwargs)
        except Exception as error:
            self._leave_out(error)

    def _leave_out(self, error: Exception) -> None:
        self.inner = None
        first = str(error).partition("\n")[0] or type(error).__name__
        self._run.alert("tracker", f"{self._name} is left out: {first}; the run's own record is complete")


for _event in EVENTS:
    setattr(Guarded, _event, partialmethod(Guarded.pass_on, _event))
