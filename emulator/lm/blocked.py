"""Operations on more numbers than a core's own cache holds, block by block: attention, feed-forward, and the choice of
tokens, with gradients written by hand.

A block of rows goes through all the operations of a kind before the next one, so that what passes between two of them
stays in the core's cache; and what the gradient can quickly compute again is not kept.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch, tokenizers and safetensors are only partly typed)

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from emulator.lm.ops import BLOCK, product

CACHED = 2**18
"""Numbers of one tensor in a block."""
MOST_SCORES = 2**22
"""Attention scores of one layer that are held at once."""


def _blocks(rows: int, width: int, multiple: int = 1) -> Iterator[slice[int, int, None]]:
    """Slices of `rows` rows of `width` numbers, each a multiple of so many rows."""
    size = max(1, CACHED // width // multiple) * multiple
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


# Attention


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
    return _mix(_together(query, keys), keys, values, mask)[0].view(query.shape)


def _together(query: Tensor, keys: Tensor) -> Tensor:
    """Queries times 1/√size, a group's in one matrix: [rows, key-value heads, heads of a group · length, size]."""
    rows, _, _, size = query.shape
    return query.reshape(rows, keys.shape[1], -1, size) * size**-0.5


def _mix(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What is attended to, in the shape of the query, and the probabilities, with positions as the last dimension."""
    mixed, p = torch.empty_like(query), query.new_empty(*query.shape[:3], keys.shape[2])
    for rows in _blocks(len(query), p[0].numel()):
        scores = torch.matmul(query[rows], keys[rows].mT)
        scores.view(len(scores), -1, *mask.shape[2:]).add_(mask[rows])
        torch.softmax(scores, -1, out=p[rows])
        torch.matmul(p[rows], values[rows], out=mixed[rows])
    return mixed, p


class _Attend(torch.autograd.Function):
    """With q = query/√size, p = softmax(q·kᵀ + mask), y = p·v and g = dy·vᵀ:  dv = pᵀ·dy,  ds = p·(g − Σ g·p),
    dk = dsᵀ·q,  dquery = ds·k/√size."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        together = _together(query, keys)
        mixed, p = _mix(together, keys, values, mask)
        ctx.save_for_backward(together, keys, values, p)
        return mixed.view(query.shape)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, keys, values, p = ctx.saved_tensors
        dy = slopes[0].reshape(query.shape)
        dq, dk, dv = torch.empty_like(query), torch.empty_like(keys), torch.empty_like(values)
        for rows in _blocks(len(query), p[0].numel()):
            torch.matmul(p[rows].mT, dy[rows], out=dv[rows])
            g = torch.matmul(dy[rows], values[rows].mT)
            ds = torch._softmax_backward_data(g, p[rows], -1, p.dtype)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            torch.matmul(ds, keys[rows], out=dq[rows])
            torch.matmul(ds.mT, query[rows], out=dk[rows])
        return dq.mul_(query.shape[-1] ** -0.5).view(slopes[0].shape), dk, dv, None


# Feed-forward


def feed_forward(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """(silu(x·gateᵀ) · x·upᵀ)·downᵀ of x [..., hidden] (Shazeer 2020). `gate_up` [2·inner, hidden] is gate and up one
    below the other, `down` [hidden, inner]."""
    if torch.is_grad_enabled():
        return cast(Tensor, _FeedForward.apply(x, gate_up, down))
    return _fed(x.flatten(0, -2), gate_up, down, None).view(x.shape)


def _fed(x: Tensor, gate_up: Tensor, down: Tensor, inner: Tensor | None) -> Tensor:
    """The result; x·gate_upᵀ goes into `inner`."""
    out = torch.empty_like(x)
    for rows in _blocks(len(x), len(gate_up), BLOCK):
        both = product(x[rows], gate_up, None if inner is None else inner[rows])
        gate, up = both.chunk(2, 1)
        product(F.silu(gate).mul_(up), down, out[rows])
    return out


class _FeedForward(torch.autograd.Function):
    """With g = x·gateᵀ, u = x·upᵀ, h = silu(g)·u, y = h·downᵀ and dh = dy·down:  ddown = dyᵀ·h,  du = dh·silu(g),
    dg = dh·u·silu′(g),  dx = [dg du]·gate_up,  dgate_up = [dg du]ᵀ·x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        inner = flat.new_empty(len(flat), len(gate_up))
        out = _fed(flat, gate_up, down, inner)
        ctx.save_for_backward(flat, gate_up, down, inner)
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        x, gate_up, down, inner = ctx.saved_tensors
        dy, dx = slopes[0].flatten(0, -2), torch.empty_like(x)
        d_gate_up = torch.zeros_like(gate_up) if ctx.needs_input_grad[1] else None
        d_down = torch.zeros_like(down) if ctx.needs_input_grad[2] else None
        for rows in _blocks(len(x), len(gate_up), BLOCK):
            gate, up = inner[rows].chunk(2, 1)
            opened, dh = F.silu(gate), product(dy[rows], down.T)
            if d_down is not None:
                d_down.addmm_(dy[rows].T, opened * up)
            d_inner = torch.empty_like(inner[rows])
            d_gate, d_up = d_inner.chunk(2, 1)
            torch.mul(dh, opened, out=d_up)
            torch.ops.aten.silu_backward.grad_input(dh.mul_(up), gate, grad_input=d_gate)
            product(d_inner, gate_up.T, dx[rows])
            if d_gate_up is not None:
                d_gate_up.addmm_(d_inner.T, x[rows])
        return dx.view(slopes[0].shape), d_gate_up, d_down


# The choice of tokens


def chosen(hidden: Tensor, head: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log softmax(hidden·headᵀ / temperature) at `ids`, and the entropy of that distribution (no gradient), both of the
    shape of `ids` [...], of hidden states [..., hidden] and the output matrix `head` [vocabulary, hidden]."""
    flat, kept = hidden.flatten(0, -2), torch.is_grad_enabled()
    logps, entropy = cast(tuple[Tensor, Tensor], _Chosen.apply(flat, head, ids.flatten(), temperature, kept))  # pyright: ignore[reportUnknownMemberType]
    return logps.view(ids.shape), entropy.view(ids.shape)


class _Chosen(torch.autograd.Function):
    """With x = h·headᵀ/τ and p = softmax(x):  x_o − log Σ e^x,  and  dx = (1_o − p)·dy,  dh = dx·head/τ,
    dhead = dxᵀ·h/τ."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, head: Tensor, ids: Tensor, temperature: float, kept: bool
    ) -> tuple[Tensor, Tensor]:
        p = h.new_empty(len(h), len(head)) if kept else None
        logps, entropy = h.new_empty(len(h)), h.new_empty(len(h))
        for rows in _blocks(len(h), len(head), BLOCK):
            x = product(h[rows], head)
            if temperature != 1.0:
                x /= temperature
            mine = torch.softmax(x, -1, out=torch.empty_like(x) if p is None else p[rows])
            total = x.amax(-1) - mine.amax(-1).log()  # log Σ e^x: the greatest p = e^x / Σ e^x never vanishes
            torch.sub(x.gather(-1, ids[rows].unsqueeze(-1)).squeeze(-1), total, out=logps[rows])
            torch.sub(total, x.mul_(mine).sum(-1), out=entropy[rows])
        ctx.save_for_backward(h, head, ids, p)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return logps, entropy

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        (h, head, ids, p), slope = ctx.saved_tensors, (slopes[0] / ctx.temperature).unsqueeze(-1)
        dh = torch.empty_like(h)
        d_head = torch.zeros_like(head) if ctx.needs_input_grad[1] else None
        for rows in _blocks(len(h), len(head), BLOCK):
            dx = (
                p[rows].mul_(-slope[rows]).scatter_add_(-1, ids[rows].unsqueeze(-1), slope[rows])
            )  # p has done its duty
            product(dx, head.T, dh[rows])
            if d_head is not None:
                d_head.addmm_(dx.T, h[rows])
        return dh, d_head, None, None, None
