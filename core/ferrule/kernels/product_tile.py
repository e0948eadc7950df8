"""A tile of a product whose first operand is the matrix: its rows, its sums, its way out."""

# Jitted functions are not Python to a type checker.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferrule.kernels.beside import is_beside


@triton.jit
def matrix_rows(tile, num_out, BLOCK_N: tl.constexpr, GATED: tl.constexpr):
    """Rows of the matrix that a tile takes; gated: a gate row and its up row in turn."""
    row = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    if GATED:
        row = row // 2 + (row % 2) * (num_out // 2)
    # Rows past the end read the last one again: a mask would cost in every step.
    return tl.minimum(row, num_out - 1)


@triton.jit
def gated_pair(gate, up, TYPE: tl.constexpr):
    """``silu(gate) * up``, rounded where separate kernels would round."""
    gate = gate.to(TYPE).to(tl.float32)
    return (gate / (1 + tl.exp(-gate))).to(TYPE) * up.to(TYPE)


@triton.jit
def hand_over(
    total,
    partials,
    counters,
    tile,
    split,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Stores a split's sums, and says how many of the tile's splits were there before."""
    place = tl.arange(0, BLOCK_N)[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    tl.store(partials + (tile * SPLITS + split) * (BLOCK_N * BLOCK_M) + place, total)
    # All threads' stores come before the count that announces them.
    tl.debug_barrier()
    return tl.atomic_add(counters + tile, 1, sem="acq_rel", scope="gpu")


@triton.jit
def take_over(
    partials, counters, tile, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLITS: tl.constexpr
):
    """The sums of all splits of a tile, for the last that came; leaves the count at zero."""
    # No thread reads before the one that counted.
    tl.debug_barrier()
    place = tl.arange(0, BLOCK_N)[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for other in tl.static_range(SPLITS):
        theirs = partials + (tile * SPLITS + other) * (BLOCK_N * BLOCK_M)
        total += tl.load(theirs + place, cache_modifier=".cg")
    tl.store(counters + tile, 0)
    return total


@triton.jit
def store_tile(
    total,
    added,
    out,
    out_stride,
    tile,
    num_rows,
    num_out,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GATED: tl.constexpr,
    ADDS: tl.constexpr,
):
    """Writes ``[BLOCK_N, BLOCK_M]`` sums to rows of ``out``, gated or with a residual."""
    member = tl.arange(0, BLOCK_M)
    is_member = (member < num_rows)[None, :]
    if GATED:
        pairs = tl.permute(tl.reshape(total, [BLOCK_N // 2, 2, BLOCK_M]), (0, 2, 1))
        gate, up = tl.split(pairs)
        at = tile * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
        tl.store(
            out + member[None, :] * out_stride + at[:, None],
            gated_pair(gate, up, out.dtype.element_ty),
            mask=is_member & (at < num_out // 2)[:, None],
        )
    else:
        at = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        place = member[None, :] * out_stride + at[:, None]
        inside = is_member & (at < num_out)[:, None]
        if ADDS:
            total += tl.load(added + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)


def counters_of(device: torch.device, size: int) -> Tensor:
    """How many programs of a tile are done; every launch leaves zeros."""
    return _counters(device, size, is_beside())


@lru_cache
def _counters(device: torch.device, size: int, is_beside: bool) -> Tensor:
    return torch.zeros(size, dtype=torch.int32, device=device)
