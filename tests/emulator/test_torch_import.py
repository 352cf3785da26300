"""torch imported without its compilers does all that the emulator asks of it, and has the rest when it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("torch")

pytestmark = pytest.mark.lm

TRAINED = """
from emulator.lm.torch_import import PUT_OFF, without_compilers
with without_compilers():
    import emulator.lm.policy
import sys
from emulator.lm.policy import LmPolicy
from runner.spec.model import Grpo, Lora
from tests.emulator.lm_builders import ADVANTAGES, WEIGHTS, draw
for lora in (None, Lora(rank=2)):
    policy = LmPolicy(WEIGHTS, Grpo(beta=0.1), lora=lora, threads=2)
    policy.update(draw(policy), ADVANTAGES, 1)
print(sorted(name for name in PUT_OFF if "_NotYet" in type(sys.modules[name]).__name__) == sorted(PUT_OFF))
"""


def in_a_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_training_asks_for_nothing_of_what_was_put_off() -> None:
    assert in_a_process(TRAINED) == "True"


def test_what_was_put_off_is_there_when_it_is_asked_for() -> None:
    code = """
from emulator.lm.torch_import import without_compilers
with without_compilers():
    import torch
print(torch.export.export.__name__, torch.distributions.Normal(0.0, 1.0).mean.item(), hasattr(torch.export, "nothing"))
"""
    assert in_a_process(code) == "export 0.0 False"


def test_another_torch_is_imported_as_it_is() -> None:
    code = """
from emulator.lm import torch_import
torch_import.PROVEN = ("1.0.",)
with torch_import.without_compilers():
    import torch
print(type(torch.export).__name__)
"""
    assert in_a_process(code) == "module"
