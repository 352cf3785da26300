"""Operations of the model whose gradients are written by hand, and the allocator's setting that goes with them.

A tiny model spends its time in starting operations and in passes over memory, not in arithmetic; torch's own
composition of each of these, forward and backward, has two or three times as many of both. Where no gradient is asked
for, generation for one, they are called without autograd's bookkeeping.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch, tokenizers and safetensors are only partly typed)

from __future__ import annotations

import ctypes
import sys
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""glibc's names of two settings (`mallopt`)."""
LARGEST_BLOCK, LARGEST_REST = 2**25, 2**30
"""Bytes: blocks up to the first come from the heap; the heap keeps up to the second when all of it is free."""
LEAST_OPERATIONS = 2**21
"""Multiplications from which a product is left to oneDNN."""
BLOCK = 256
"""Rows that such a product has, or a multiple."""


def _is_intel() -> bool:
    try:
        with Path("/proc/cpuinfo").open() as lines:
            return any("GenuineIntel" in line for line in islice(lines, 3))
    except OSError:
        return False


ONE_DNN = torch.backends.mkldnn.is_available() and not _is_intel()
"""Whether large products are left to oneDNN."""


def keep_freed_memory() -> None:
    """Lets the C library reuse what tensors leave behind, where it would give large blocks back to the system at once.

    Otherwise the system clears fresh pages for nearly every tensor of every step: about a tenth of an update. glibc
    only; elsewhere nothing happens.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(MMAP_THRESHOLD, LARGEST_BLOCK)
        libc.mallopt(TRIM_THRESHOLD, LARGEST_REST)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x·wᵀ of x [..., in] and weight [out, in]."""
    if torch.is_grad_enabled():
        return cast(Tensor, _Linear.apply(x, weight))
    return product(x.flatten(0, -2), weight).view(*x.shape[:-1], len(weight))


def product(x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """x·wᵀ of rows [n, in], into `out` where that is given, without autograd's bookkeeping.

    Large ones by oneDNN where the processor is not Intel's: on AMD's it takes half the time of MKL, torch's own choice.
    It makes and keeps code for each number of rows that it meets, so they are filled up to whole blocks.
    """
    if not _is_large(x, weight):
        return torch.mm(x, weight.T) if out is None else torch.mm(x, weight.T, out=out)
    made = _one_dnn(_filled(x), weight)[: len(x)]
    return made if out is None else out.copy_(made)


def _filled(rows: Tensor) -> Tensor:
    """Whole blocks of rows; what the last ones hold is of no matter."""
    if len(rows) % BLOCK == 0:
        return rows
    filled = rows.new_empty(len(rows) + -len(rows) % BLOCK, rows.shape[1])
    filled[: len(rows)] = rows
    return filled


def _is_large(rows: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can compute this product, and is worth it."""
    large = ONE_DNN and 2 * len(rows) >= BLOCK and rows.numel() * len(weight) >= LEAST_OPERATIONS
    return large and rows.dtype == torch.float32


def _one_dnn(x: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, None, "none", [], "")


class _Linear(torch.autograd.Function):
    """dx = dy·w,  dw = dyᵀ·x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        ctx.save_for_backward(flat, weight)
        return product(flat, weight).view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        dy = slopes[0].flatten(0, -2)
        dx = product(dy, weight.T).view(*slopes[0].shape[:-1], -1) if ctx.needs_input_grad[0] else None
        return dx, _outer(dy, x) if ctx.needs_input_grad[1] else None


def _outer(dy: Tensor, x: Tensor) -> Tensor:
    """dyᵀ·x, whole blocks of rows by oneDNN. The narrower one goes first, which is how that is quicker."""
    if len(x) < BLOCK or not _is_large(x, dy.T):
        return dy.T @ x
    whole = len(x) - len(x) % BLOCK
    a, b = dy[:whole].T, x[:whole].T
    made = _one_dnn(b, a).T.contiguous() if len(b) < len(a) else _one_dnn(a, b)
    return made.addmm_(dy[whole:].T, x[whole:])


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """x / √(mean x² + ε) over the last dimension (Zhang and Sennrich 2019). Its weight is left to the matrix behind it,
    which has fewer numbers: (n·w)·Mᵀ = n·(M·w)ᵀ."""
    if torch.is_grad_enabled():
        return cast(Tensor, _RmsNorm.apply(x, eps))
    return x * _scale(x, eps)


def _scale(x: Tensor, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.addcmul(_constant(eps, x.dtype), norm, norm, value=1 / x.shape[-1]).rsqrt_()


@cache
def _constant(value: float, dtype: torch.dtype) -> Tensor:
    return torch.tensor([value], dtype=dtype)


class _RmsNorm(torch.autograd.Function):
    """With s = 1/√(mean x² + ε) and n = x·s:  dx = s·(dn − n·mean(dn·n))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        scale = _scale(x, eps)
        normed = x * scale
        ctx.save_for_backward(normed, scale)
        return normed

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        normed, scale = ctx.saved_tensors
        mean = (slopes[0] * normed).mean(-1, keepdim=True)
        return torch.addcmul(slopes[0], normed, mean, value=-1.0).mul_(scale), None


def heads(x: Tensor, cos: Tensor, sin: Tensor, sizes: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each [rows, its heads, length, size], of a projection x [rows, length, all of them].

    Queries and keys are turned by their position (rotary embedding, Su et al. 2021) in Hugging Face's layout, where
    pairs are (i, i + half); `cos` and `sin` are [rows, 1, length, half]. `sizes`: query heads, key-value heads, size.
    """
    if torch.is_grad_enabled():
        return cast(tuple[Tensor, Tensor, Tensor], _Heads.apply(x, cos, sin, sizes))
    return _split(x, cos, sin, sizes)


def _split(x: Tensor, cos: Tensor, sin: Tensor, sizes: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    queries, pairs, size = sizes
    split = x.view(*x.shape[:2], queries + 2 * pairs, size).transpose(1, 2)
    turned = x.new_empty(len(x), queries + pairs, x.shape[1], size)
    _turn(split[:, : queries + pairs], cos, sin, turned, 1.0)
    return turned[:, :queries], turned[:, queries:], split[:, queries + pairs :]


def _turn(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor, way: float) -> None:
    """Into `out`: x turned by the angles (`way` 1) or back (-1), which is the transpose and so the gradient."""
    first, second = x.chunk(2, -1)
    new_first, new_second = out.chunk(2, -1)
    torch.mul(first, cos, out=new_first).addcmul_(second, sin, value=-way)
    torch.mul(second, cos, out=new_second).addcmul_(first, sin, value=way)


class _Heads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, sizes: tuple[int, int, int]) -> tuple[Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        ctx.sizes = sizes
        return _split(x, cos, sin, sizes)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None]:
        (cos, sin), (queries, pairs, size) = ctx.saved_tensors, ctx.sizes
        rows, _, length, _ = slopes[0].shape
        dx = slopes[0].new_empty(rows, length, queries + 2 * pairs, size)
        split = dx.transpose(1, 2)
        _turn(slopes[0], cos, sin, split[:, :queries], -1.0)
        _turn(slopes[1], cos, sin, split[:, queries : queries + pairs], -1.0)
        split[:, queries + pairs :] = slopes[2]
        return dx.flatten(2), None, None, None
