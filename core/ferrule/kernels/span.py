"""Attention of a tile of queries over a span of a sequence's keys; for other kernels to call."""

# Jitted functions are not Python to a type checker.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def attend_span(
    query,
    keys,
    values,
    table,
    head,
    begin,
    end,
    scale,
    BLOCK_SIZE: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Every query sees all of places ``begin`` to ``end`` (online softmax, arXiv 1805.02867).

    Returns:
        The highest score of each query, the sum of its weights, and its weighted values.
    """
    channel = tl.arange(0, PADDED_DIM)
    top = tl.full([ROWS], -1e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    result = tl.zeros([ROWS, PADDED_DIM], tl.float32)
    for start in range(begin, end, TILE):
        place = start + tl.arange(0, TILE)
        is_place = place < end
        block = tl.load(table + place // BLOCK_SIZE, mask=is_place, other=0).to(tl.int64)
        at = ((block * BLOCK_SIZE + place % BLOCK_SIZE) * KV_HEADS + head) * DIM
        mask = is_place[:, None] & (channel < DIM)[None, :]
        key = tl.load(keys + at[:, None] + channel[None, :], mask=mask, other=0.0)
        value = tl.load(values + at[:, None] + channel[None, :], mask=mask, other=0.0)
        scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
        scores = tl.where(is_place[None, :], scores, -1e30)
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        weights = tl.where(is_place[None, :], weights, 0.0)
        shrink = tl.exp(top - higher)
        total = total * shrink + tl.sum(weights, 1)
        result = result * shrink[:, None] + tl.dot(
            weights.to(value.dtype), value, input_precision=PRECISION
        )
        top = higher
    return top, total, result
