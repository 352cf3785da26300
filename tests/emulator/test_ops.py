"""Operations with gradients of our own writing against torch's composition of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
import torch.nn.functional as F

from emulator.lm import ops

pytestmark = pytest.mark.lm

ROWS, LENGTH, HEADS, GROUPS, SIZE = 3, 5, 4, 2, 6


def numbers(*shapes: Sequence[int]) -> list[Any]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def assert_equal(
    ours: Callable[..., Any], theirs: Callable[..., Any], inputs: Sequence[Any], error: float | None = None
) -> None:
    """Values and gradients; and the values again where no gradient is asked for."""
    sides: list[tuple[Any, Any]] = []
    for function in (ours, theirs):
        mine = [value.clone().requires_grad_() for value in inputs]
        out = function(*mine)
        slope = numbers(out.shape)[0].to(out.dtype)
        sides.append((out.detach(), torch.autograd.grad(out, mine, slope)))
    torch.testing.assert_close(sides[0], sides[1], rtol=error, atol=error)
    with torch.inference_mode():
        torch.testing.assert_close(ours(*inputs), sides[1][0], rtol=error, atol=error)


@pytest.mark.parametrize(("rows", "before", "after"), [(5, 6, 7), (400, 64, 96), (400, 96, 64)])
@pytest.mark.parametrize("one_dnn", [False, torch.backends.mkldnn.is_available()], ids=["MKL", "oneDNN"])
def test_linear_small_and_large_narrowing_and_widening(
    rows: int, before: int, after: int, one_dnn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "ONE_DNN", one_dnn)
    inputs = [value.float() for value in numbers((2, rows, before), (after, before))]
    assert (2 * rows * before * after >= ops.LEAST_OPERATIONS) == (rows == 400)
    assert_equal(ops.linear, F.linear, inputs, error=1e-4)  # sums of 800 float32


def test_linear_gives_no_gradient_to_what_is_frozen() -> None:
    x, weight = (value.float() for value in numbers((3, 4), (5, 4)))
    ops.linear(x, weight.requires_grad_()).sum().backward()
    assert x.grad is None and weight.grad is not None


def test_rms_norm() -> None:
    assert_equal(lambda x: ops.rms_norm(x, 1e-6), lambda x: F.rms_norm(x, (8,), None, 1e-6), numbers((ROWS, LENGTH, 8)))


def test_heads_are_split_and_turned_as_transformers_does() -> None:
    angles = torch.arange(LENGTH, dtype=torch.float64).view(1, 1, LENGTH, 1) * torch.tensor([1.0, 0.3, 0.1])
    cos, sin = angles.cos(), angles.sin()

    def theirs(x: Any) -> Any:
        split = x.view(ROWS, LENGTH, HEADS + 2 * GROUPS, SIZE).transpose(1, 2)
        half = torch.cat((-split[..., SIZE // 2 :], split[..., : SIZE // 2]), -1)
        turned = split * torch.cat((cos, cos), -1) + half * torch.cat((sin, sin), -1)
        return torch.cat((turned[:, : HEADS + GROUPS], split[:, HEADS + GROUPS :]), 1)

    def ours(x: Any) -> Any:
        return torch.cat(ops.heads(x, cos, sin, (HEADS, GROUPS, SIZE)), 1)

    assert_equal(ours, theirs, numbers((ROWS, LENGTH, (HEADS + 2 * GROUPS) * SIZE)))
