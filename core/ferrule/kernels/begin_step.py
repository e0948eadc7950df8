"""What a decode step reads of its slots, in one launch."""

# Jitted functions are not Python to a type checker.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ferrule.kernels.follow import follow
from ferrule.kernels.overlap import launch_options

_BLOCK = 64


@triton.jit(do_not_specialize=["num_rows"])
def _begin_kernel(
    slots,
    last_tokens,
    lengths,
    tables,
    tokens,
    positions,
    ends,
    cache_rows,
    num_rows,
    table_stride,
    block_size,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    if OVERLAP:
        follow()
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < num_rows
    slot = tl.load(slots + row, mask=inside, other=0)
    position = tl.load(lengths + slot, mask=inside, other=0)
    block = tl.load(tables + slot * table_stride + position // block_size, mask=inside, other=0)
    tl.store(tokens + row, tl.load(last_tokens + slot, mask=inside, other=0), mask=inside)
    tl.store(positions + row, position, mask=inside)
    tl.store(ends + row, position + 1, mask=inside)
    place = block.to(tl.int64) * block_size + position % block_size
    tl.store(cache_rows + row, place, mask=inside)


def begin_step(
    slots: Tensor, last_tokens: Tensor, lengths: Tensor, tables: Tensor, block_size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The inputs of a step in which each slot gets one token.

    Args:
        slots: ``[rows]`` int64.
        last_tokens: ``[slots]`` int64: the token that runs next.
        lengths: ``[slots]`` int64: tokens in the cache, so where that one goes.
        tables: ``[slots, blocks]`` int32 block ids.
        block_size: Tokens in a block.

    Returns:
        ``[rows]`` int64 each: tokens, positions, tokens in the cache with the new one, and where in
        a layer's cache, seen as rows, it goes.
    """
    num_rows = slots.shape[0]
    tokens, positions, ends, cache_rows = torch.empty(
        4, num_rows, dtype=torch.int64, device=slots.device
    )
    _begin_kernel[(triton.cdiv(num_rows, _BLOCK),)](
        slots,
        last_tokens,
        lengths,
        tables,
        tokens,
        positions,
        ends,
        cache_rows,
        num_rows,
        tables.stride(0),
        block_size,
        BLOCK=_BLOCK,
        num_warps=2,
        **launch_options(slots.device),
    )
    return tokens, positions, ends, cache_rows
