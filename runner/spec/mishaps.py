"""`emulator.faults`: what goes wrong on purpose, to see that a run recovers."""

from __future__ import annotations

from typing import Literal

from runner.spec.section import Count, Positive, Section


class Fault(Section):
    """Something that goes wrong on purpose, once: in the first attempt that comes to the step."""

    at_step: Count
    """Step in whose middle it happens: completions are scored, weights not yet updated."""
    kind: Literal["crash", "kill", "hang", "nan", "out_of_memory", "disk_full", "slow_step", "lost_reward_worker"]
    """`crash`: the trainer aborts. `kill`: it is killed. `hang`: it stands still. `nan`: the update is not a number. `lost_reward_worker`: a reward process is killed under its calls."""  # noqa: E501
    seconds: Positive = 1.0
    """How long a `slow_step` takes more."""
