"""Operations of the model whose gradients are written by hand, and the allocator's setting that goes with them.

A tiny model spends its time in passes over memory, not in arithmetic: torch's own composition of each of these, forward
and backward, goes over the same numbers two or three times as often. Where no gradient is asked for, generation for
one, they are called without autograd's bookkeeping.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch, tokenizers and safetensors are only partly typed)

from __future__ import annotations

import ctypes
import sys
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""glibc's names of two settings (`mallopt`)."""
LARGEST_BLOCK, LARGEST_REST = 2**25, 2**30
"""Bytes: blocks up to the first come from the heap; the heap keeps up to the second when all of it is free."""
MOST_SCORES = 2**22
"""Attention scores of one layer that are held at once."""
LEAST_OPERATIONS = 2**21
"""Multiplications from which a product is left to oneDNN."""
BLOCK = 256
"""Rows that such a product has, or a multiple."""


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
    return _product(x, weight)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """x·wᵀ. Large ones by oneDNN: of MKL, torch's own choice, it takes half the time on AMD's processors, and as much
    on Intel's. It makes and keeps code for each number of rows that it meets, so they are filled up to whole blocks."""
    rows = x.flatten(0, -2)
    if not _is_large(rows, weight):
        return F.linear(x, weight)
    return _one_dnn(_filled(rows), weight)[: len(rows)].view(*x.shape[:-1], len(weight))


def _filled(rows: Tensor) -> Tensor:
    """Whole blocks of rows; what the last ones hold is of no matter."""
    if len(rows) % BLOCK == 0:
        return rows
    filled = rows.new_empty(len(rows) + -len(rows) % BLOCK, rows.shape[1])
    filled[: len(rows)] = rows
    return filled


def _is_large(rows: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can compute this product, and is worth it."""
    large = 2 * len(rows) >= BLOCK and rows.numel() * len(weight) >= LEAST_OPERATIONS
    return large and rows.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def _one_dnn(x: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, None, "none", [], "")


class _Linear(torch.autograd.Function):
    """dx = dy·w,  dw = dyᵀ·x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        dx = _product(slopes[0], weight.T) if ctx.needs_input_grad[0] else None
        dw = _outer(slopes[0].flatten(0, -2), x.flatten(0, -2)) if ctx.needs_input_grad[1] else None
        return dx, dw


def _outer(dy: Tensor, x: Tensor) -> Tensor:
    """dyᵀ·x, whole blocks of rows by oneDNN. The narrower one goes first, which is how that is quicker."""
    if len(x) < BLOCK or not _is_large(x, dy.T):
        return dy.T @ x
    whole = len(x) - len(x) % BLOCK
    a, b = dy[:whole].T, x[:whole].T
    product = _one_dnn(b, a).T.contiguous() if len(b) < len(a) else _one_dnn(a, b)
    return product.addmm_(dy[whole:].T, x[whole:])


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / √(mean x² + ε) · weight over the last dimension (Zhang and Sennrich 2019)."""
    if torch.is_grad_enabled():
        return cast(Tensor, _RmsNorm.apply(x, weight, eps))
    return (x * _scale(x, eps)).mul_(weight)


def _scale(x: Tensor, eps: float) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()


class _RmsNorm(torch.autograd.Function):
    """With n = x·s, s = 1/√(mean x² + ε), y = n·w:  dw = Σ dy·n,  dx = s·(dy·w − n·mean(dy·w·n))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = _scale(x, eps)
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, scale, weight = ctx.saved_tensors
        product = slopes[0] * normed
        mean = torch.mv(product.flatten(0, -2), weight).div_(len(weight)).view(scale.shape)
        dx = (slopes[0] * weight).addcmul_(normed, mean, value=-1.0).mul_(scale)
        return dx, product.flatten(0, -2).sum(0), None


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) · up, where x is gate and up one behind the other in the last dimension (Shazeer 2020)."""
    if torch.is_grad_enabled():
        return cast(Tensor, _SwiGlu.apply(x))
    gate, up = x.chunk(2, -1)
    return F.silu(gate).mul_(up)


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, -1)
        opened = F.silu(gate)
        ctx.save_for_backward(x, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        x, opened = ctx.saved_tensors
        gate, up = x.chunk(2, -1)
        dx = torch.empty_like(x)
        d_gate, d_up = dx.chunk(2, -1)
        torch.mul(slopes[0], opened, out=d_up)
        torch.ops.aten.silu_backward.grad_input(slopes[0] * up, gate, grad_input=d_gate)
        return dx


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
        query, key, value = _split(x, cos, sin, sizes)
        return query.contiguous(), key.contiguous(), value.contiguous()

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


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attention of queries [rows, heads, length, size] to keys and values [rows, key-value heads, positions, size].

    `mask` [rows, 1, length, positions] is added to the scores. Short passes as two plain products over the heads of a
    group; long ones by torch's own, which doesn't hold all scores at once.
    """
    rows, count, length, _ = query.shape
    if rows * count * length * keys.shape[2] > MOST_SCORES:
        return F.scaled_dot_product_attention(query, keys, values, mask, enable_gqa=count != keys.shape[1])
    if torch.is_grad_enabled():
        return cast(Tensor, _Attend.apply(query, keys, values, mask))
    return _mix(query, keys, values, mask)[0]


def _mix(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What is attended to, and the probabilities [rows · key-value heads, heads of a group · length, positions]."""
    (rows, count, length, size), groups = query.shape, keys.shape[1]
    together = query.reshape(rows * groups, -1, size)
    scores = torch.bmm(together, keys.flatten(0, 1).mT).view(rows, count, length, -1)
    p = torch.add(mask, scores, alpha=size**-0.5).softmax(-1).view(rows * groups, -1, keys.shape[2])
    return torch.bmm(p, values.flatten(0, 1)).view(query.shape), p


class _Attend(torch.autograd.Function):
    """With p = softmax(q·kᵀ/√d + mask), y = p·v and g = dy·vᵀ:  dv = pᵀ·dy,  ds = p·(g − Σ g·p),  dq = ds·k/√d,
    dk = dsᵀ·q/√d."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        mixed, p = _mix(query, keys, values, mask)
        ctx.save_for_backward(query, keys, values, p)
        return mixed

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, keys, values, p = ctx.saved_tensors
        together = (*p.shape[:2], query.shape[-1])
        dy, q = slopes[0].reshape(together), query.reshape(together)
        ds = torch._softmax_backward_data(torch.bmm(dy, values.flatten(0, 1).mT), p, -1, p.dtype)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        ds *= query.shape[-1] ** -0.5
        dq = torch.bmm(ds, keys.flatten(0, 1)).view(query.shape)
        return dq, torch.bmm(ds.mT, q).view(keys.shape), torch.bmm(p.mT, dy).view(values.shape), None
