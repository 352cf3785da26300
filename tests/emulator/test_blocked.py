"""Operations that go through their rows block by block against torch's composition of them."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

import torch
import torch.nn.functional as F

from emulator.lm import blocked, ops
from tests.emulator.test_ops import GROUPS, HEADS, LENGTH, ROWS, SIZE, assert_equal, numbers

pytestmark = pytest.mark.lm


@pytest.fixture(params=[1, blocked.CACHED], ids=["block by block", "at once"], autouse=True)
def size_of_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "CACHED", request.param)
    monkeypatch.setattr(blocked, "BLOCK", 4)


@pytest.mark.parametrize("most", [0, blocked.MOST_SCORES], ids=["long", "short"])
def test_attention(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "MOST_SCORES", most)
    mask = torch.zeros(ROWS, 1, LENGTH, LENGTH + 2, dtype=torch.float64)
    mask[1, 0, :, 0] = float("-inf")

    def theirs(query: Any, keys: Any, values: Any) -> Any:
        wide = [value.repeat_interleave(HEADS // GROUPS, 1) for value in (keys, values)]
        return ((query @ wide[0].transpose(2, 3)) * SIZE**-0.5 + mask).softmax(-1) @ wide[1]

    shapes = ((ROWS, HEADS, LENGTH, SIZE), (ROWS, GROUPS, LENGTH + 2, SIZE), (ROWS, GROUPS, LENGTH + 2, SIZE))
    assert_equal(lambda q, k, v: blocked.attend(q, k, v, mask), theirs, numbers(*shapes))


def test_feed_forward() -> None:
    def theirs(x: Any, gate_up: Any, down: Any) -> Any:
        inner = x @ gate_up.T
        return (F.silu(inner[..., :7]) * inner[..., 7:]) @ down.T

    assert_equal(blocked.feed_forward, theirs, numbers((ROWS, LENGTH, 8), (14, 8), (8, 7)))


def test_large_products_by_one_dnn_come_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "ONE_DNN", torch.backends.mkldnn.is_available())
    monkeypatch.setattr(ops, "LEAST_OPERATIONS", 0)

    def theirs(x: Any, gate_up: Any, down: Any) -> Any:
        inner = x @ gate_up.T
        return (F.silu(inner[..., :96]) * inner[..., 96:]) @ down.T

    inputs = [0.1 * value.float() for value in numbers((3, 100, 48), (192, 48), (48, 96))]
    assert_equal(blocked.feed_forward, theirs, inputs, error=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_log_probability_of_a_token_and_the_entropy_of_its_choice(temperature: float) -> None:
    ids = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) % 9

    def theirs(hidden: Any, head: Any) -> Any:
        return (hidden @ head.T / temperature).log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)

    inputs = numbers((ROWS, LENGTH, 8), (9, 8))
    assert_equal(lambda hidden, head: blocked.chosen(hidden, head, ids, temperature)[0], theirs, inputs)
    p = (inputs[0] @ inputs[1].T / temperature).softmax(-1)
    entropy = blocked.chosen(*inputs, ids, temperature)[1]
    torch.testing.assert_close(entropy, -(p * p.log()).sum(-1))


def test_what_is_frozen_gets_no_gradient() -> None:
    x, gate_up, down = numbers((ROWS, LENGTH, 8), (14, 8), (8, 7))
    blocked.feed_forward(x.requires_grad_(), gate_up, down.requires_grad_()).sum().backward()
    assert gate_up.grad is None and x.grad is not None and down.grad is not None
    hidden, head = numbers((4, 8), (9, 8))
    blocked.chosen(hidden.requires_grad_(), head, torch.tensor([0, 1, 2, 3]), 1.0)[0].sum().backward()
    assert head.grad is None and hidden.grad is not None
