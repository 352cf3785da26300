"""What TRL logs goes to the run; what the run decides goes back as control flags."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from runner.backends.trl.engine import LARGEST_GAP
from runner.grpo.types import Next

if TYPE_CHECKING:
    from runner.backends.trl.trainer import RunTrainer

OURS = ("reward", "reward_std", "frac_reward_zero_std", "rewards/", "completions/")
"""Figures that the run computes itself, equally for every backend."""
NOISE = ("epoch", "total_flos", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


class Ended(Exception):
    """The run ended before the first step of this attempt, by an evaluation. TRL looks at its stop flag only behind a
    step. There is nothing to save: it is at step 0, or at the checkpoint it came from.
    """


class Reporter(TrainerCallback):
    """Reports every finished step and evaluation. `trainer` is set once the trainer exists."""

    trainer: RunTrainer

    def __init__(self, *, stopped: bool) -> None:
        self.stopped = stopped
        """Whether the run has ended."""
        self._gap_told = False
        self._began = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """TRL logs no phases. What is neither generation, synchronisation nor scoring is the update."""
        figures = self.trainer.figures
        other = [figures.get(f"time/{phase}", 0.0) for phase in ("generate", "sync")]
        whole = time.monotonic() - self._began
        figures["step_time"] = whole  # TRL's own is that of one forward and backward pass
        figures["time/train"] = max(0.0, whole - sum(other) - self.trainer.take_scoring_seconds())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        run = self.trainer.run
        if "loss" in logs:
            figures = {**metrics_of(logs), **self._take_figures()}
            self._tell_gap(figures)
            if not self.trainer.weights_are_finite():
                figures["loss"] = math.nan  # what the next step's would be
            self._obey(run.report(state.global_step, figures), control)
        elif "eval_loss" in logs:
            self._take_figures()
            self.trainer.take_scoring_seconds()
            figures = metrics_of({name.removeprefix("eval_"): value for name, value in logs.items()})
            self._obey(run.report(state.global_step, figures, split="eval"), control)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.stopped:
            raise Ended

    def _tell_gap(self, figures: Mapping[str, float]) -> None:
        """Once: the sampler's log-probabilities are far from the trainer's."""
        gap = figures.get("sampling/sampling_logp_difference/mean", 0.0)
        if gap > LARGEST_GAP and not self._gap_told:
            self._gap_told = True
            self.trainer.run.alert(
                "sampler_gap",
                f"vLLM's log-probabilities differ from the trainer's by {gap:.3f} on average (expected: below "
                f"{LARGEST_GAP}); the policy may be sampled from other weights or in another precision",
            )

    def _take_figures(self) -> dict[str, float]:
        figures, self.trainer.figures = self.trainer.figures, {}
        return figures

    def _obey(self, following: Next, control: Any) -> None:
        """Flags are only ever raised here: an evaluation must not take back the save that its step asked for."""
        control.should_evaluate |= following.evaluate
        control.should_save |= following.save
        control.should_training_stop |= following.stop is not None
        self.stopped = following.stop is not None


def metrics_of(logs: Mapping[str, Any]) -> dict[str, float]:
    """TRL's log record without what is ours, noise, or has no value. NaN and infinity stay: they mean divergence."""
    return {
        name: math.nan if value is None else float(value)
        for name, value in logs.items()
        if name not in NOISE and not _is_ours(name) and (value is not None or name in ("loss", "grad_norm"))
    }


def _is_ours(name: str) -> bool:
    return any(name.startswith(prefix) if prefix.endswith("/") else name == prefix for prefix in OURS)
