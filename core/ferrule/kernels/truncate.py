"""top_k, top_p and min_p without a sort: a search for the lowest value that stays.

One program owns a row. It scales the row into the result, then narrows an interval of values until
one is left, counting (top_k) or summing probabilities (top_p) above a pivot. Both ends of the
interval are always values of the row, and as soon as few values are left these are gathered, so
that a handful of passes read the whole row and the others a single block.

Probabilities are summed in float32: each lane adds its share of the blocks in order, and a tree of
fixed shape adds the lanes. That is some 30 + 13 roundings of a row of 128k, a relative error below
3e-6 and less than the running sum of ``runtime/sampler.py`` has; float64 would double the registers
and crawl on consumer GPUs. Rounding is monotonous, so a lower pivot never has the smaller sum.
"""

# Jitted functions are not Python to a type checker.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 8192
_INFINITY = tl.constexpr(float("inf"))
# Pivots in the middle of values suit logits; in the middle of bit patterns they end after 32 steps
# at the latest whatever the values are.
_LINEAR_STEPS = tl.constexpr(12)


@triton.jit
def _weight(x, top):
    # The comparison makes rows with an infinite value a choice among those.
    return tl.where(x == top, 1.0, tl.exp(x - top))


@triton.jit
def _rank_of(x):
    # Bit patterns of negative floats descend: turned round, all patterns ascend with the values.
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)


@triton.jit
def _pivot(low, high, step):
    middle = low * 0.5 + high * 0.5
    if step >= _LINEAR_STEPS:
        rank = ((_rank_of(low) + _rank_of(high)) >> 1).to(tl.int32)
        middle = tl.where(rank < 0, rank ^ 0x7FFFFFFF, rank).to(tl.float32, bitcast=True)
    # Above the lower end, so that every step discards a value.
    return tl.where((middle > low) & (middle <= high), middle, high)


@triton.jit
def _measure(values, size, pivot, top, BY_MASS: tl.constexpr, BLOCK: tl.constexpr):
    """How many and how much reach the pivot, the lowest that does, the highest that does not."""
    lane = tl.arange(0, BLOCK)
    num = tl.zeros([BLOCK], tl.int32)
    mass = tl.zeros([BLOCK], tl.float32)
    lowest = tl.full([BLOCK], _INFINITY, tl.float32)
    highest = tl.full([BLOCK], -_INFINITY, tl.float32)
    for start in range(0, size, BLOCK):
        x = tl.load(values + start + lane)
        is_in = x >= pivot
        num += is_in.to(tl.int32)
        if BY_MASS:
            mass += tl.where(is_in, _weight(x, top), 0.0)
        lowest = tl.minimum(lowest, tl.where(is_in, x, _INFINITY))
        highest = tl.maximum(highest, tl.where(x < pivot, x, -_INFINITY))
    return tl.sum(num, 0), tl.sum(mass, 0), tl.min(lowest, 0), tl.max(highest, 0)


@triton.jit
def _search(
    values, size, few, low, num_low, target, stop, top, BY_MASS: tl.constexpr, BLOCK: tl.constexpr
):
    """The highest value that reaches the target, and how many and how much lies above it.

    The interval is ``low`` to ``high``: ``num_low`` values from ``low`` on, and ``num_above`` above
    ``high``. The search stops early, with these unequal, when ``stop`` values are left.
    """
    high = top
    num_above, mass_above = tl.full([], 0, tl.int32), tl.full([], 0.0, tl.float32)
    step = 0
    while (low < high) & (num_low > stop):
        if (num_low <= BLOCK) & (size > BLOCK):
            _gather(values, size, low, few, BLOCK)
            values = few
            size = tl.full([], BLOCK, tl.int32)
        pivot = _pivot(low, high, step)
        num, mass, lowest, highest = _measure(values, size, pivot, top, BY_MASS, BLOCK)
        is_reached = mass >= target if BY_MASS else num.to(tl.float32) >= target
        low = tl.where(is_reached, lowest, low)
        num_low = tl.where(is_reached, num, num_low)
        high = tl.where(is_reached, high, highest)
        num_above = tl.where(is_reached, num_above, num)
        mass_above = tl.where(is_reached, mass_above, mass)
        step += 1
    return values, size, low, num_low, num_above, mass_above


@triton.jit
def _gather(values, size, low, few, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    num = 0
    for start in range(0, size, BLOCK):
        x = tl.load(values + start + lane)
        is_in = x >= low
        place = num + tl.cumsum(is_in.to(tl.int32), 0) - 1
        tl.store(few + place, x, mask=is_in)
        num += tl.sum(is_in.to(tl.int32), 0)
    tl.store(few + lane, -_INFINITY, mask=lane >= num)
    # What other threads wrote is read next.
    tl.debug_barrier()


@triton.jit
def _total(values, size, threshold, quota, top, BLOCK: tl.constexpr):
    """Mass of what top_k left: all above the threshold, and ``quota`` of those at it."""
    lane = tl.arange(0, BLOCK)
    mass = tl.zeros([BLOCK], tl.float32)
    num_tied = tl.zeros([BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        x = tl.load(values + start + lane)
        mass += tl.where(x > threshold, _weight(x, top), 0.0)
        num_tied += tl.where(x == threshold, 1.0, 0.0)
    num_tied = tl.minimum(tl.sum(num_tied, 0), quota)
    return tl.sum(mass, 0) + num_tied * _weight(threshold, top)


@triton.jit
def _scale(logits, values, warmth, num_columns, num_known, size, BLOCK: tl.constexpr):
    """Writes the scaled row; returns its highest and lowest finite values and their count."""
    lane = tl.arange(0, BLOCK)
    highest = tl.full([BLOCK], -_INFINITY, tl.float32)
    lowest = tl.full([BLOCK], _INFINITY, tl.float32)
    num = tl.zeros([BLOCK], tl.int32)
    divisor = tl.where(warmth > 0, warmth, 1.0)
    for start in range(0, size, BLOCK):
        column = start + lane
        # The mask ends with the row: unlike num_known, that is mostly a multiple of 16, and loads
        # stay wide.
        x = tl.load(logits + column, mask=column < num_columns, other=0.0).to(tl.float32)
        x = tl.div_rn(x, divisor)
        x = tl.where(column < num_known, x, -_INFINITY)
        tl.store(values + column, x)
        is_value = x > -_INFINITY
        num += is_value.to(tl.int32)
        highest = tl.maximum(highest, tl.where(is_value, x, -_INFINITY))
        lowest = tl.minimum(lowest, tl.where(is_value, x, _INFINITY))
    # What other threads wrote is read next.
    tl.debug_barrier()
    return tl.max(highest, 0), tl.min(lowest, 0), tl.sum(num, 0)


@triton.jit
def _drop(values, size, threshold, quota, num_tied, top, min_p, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    least = tl.log(min_p)
    num_seen = 0
    for start in range(0, size, BLOCK):
        x = tl.load(values + start + lane)
        is_kept = x >= threshold
        if quota < num_tied:
            is_tied = (x == threshold).to(tl.int32)
            place = num_seen + tl.cumsum(is_tied, 0) - 1
            is_kept = (x > threshold) | ((is_tied > 0) & (place < quota))
            num_seen += tl.sum(is_tied, 0)
        is_dropped = (is_kept == 0) | (x - top < least)
        # NaN stays, for the draw to see what the model said.
        tl.store(values + start + lane, -_INFINITY, mask=is_dropped & (x == x))


@triton.jit
def _cut(values, size, few, low, num_low, top, top_k, top_p, BLOCK: tl.constexpr):
    """The lowest value that stays, how many of its equals stay, and how many equals there are."""
    threshold, quota, num_tied = low, _INFINITY, 0
    if (top_k > 0) & (top_k < num_low):
        values, size, low, num_low, num_above, _ = _search(
            values, size, few, low, num_low, top_k, top_k, top, False, BLOCK
        )
        threshold, num_tied = low, num_low - num_above
        # With more than top_k from here on the search went to its end, and num_above is exact.
        quota = tl.where(num_low > top_k, (top_k - num_above).to(tl.float32), _INFINITY)
    if top_p < 1:
        target = top_p * _total(values, size, threshold, quota, top, BLOCK)
        _, _, low, num_low, num_above, mass_above = _search(
            values, size, few, low, num_low, target, 0, top, True, BLOCK
        )
        # Of equals the n-th stays if those above and n - 1 equals have not reached the target.
        share = tl.maximum((target - mass_above) / _weight(low, top), 1.0)
        # Rounding must not bring back what top_k took away.
        quota = tl.where(low == threshold, tl.minimum(share, quota), share)
        threshold, num_tied = low, num_low - num_above
    return threshold, quota, num_tied


@triton.jit
def _truncate_kernel(
    logits,
    temperature,
    top_ks,
    top_ps,
    min_ps,
    out,
    scratch,
    num_columns,
    num_known,
    row_stride,
    size,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    warmth = tl.load(temperature + row)
    top_k = tl.minimum(tl.load(top_ks + row), num_columns).to(tl.int32)
    top_p, min_p = tl.load(top_ps + row), tl.load(min_ps + row)
    values = out + row * size
    top, low, num_low = _scale(
        logits + row * row_stride, values, warmth, num_columns, num_known, size, BLOCK
    )
    if (warmth > 0) & ((top_k > 0) | (top_p < 1) | (min_p > 0)):
        threshold, quota, num_tied = _cut(
            values, size, scratch + row * BLOCK, low, num_low, top, top_k, top_p, BLOCK
        )
        _drop(values, size, threshold, quota, num_tied, top, min_p, BLOCK)


def truncate(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    num_known: int,
) -> Tensor:
    """Scales each row and keeps top_k, of those the top_p nucleus, of those what min_p leaves.

    As ``runtime/sampler.py``: of equal logits the lower columns count as the likelier. The launch
    depends on the shape alone, so it can be captured in a graph. A row with nothing to filter is
    read once. NaN stays NaN and counts as no token.

    Args:
        logits: ``[rows, vocab_size]`` float32, float16 or bfloat16, rows at any stride.
        temperature: ``[rows]`` float32; a row of 0 is neither scaled nor filtered.
        top_k: ``[rows]`` int64; 0 is off.
        top_p: ``[rows]`` float32; 1 is off. The likeliest token always stays.
        min_p: ``[rows]`` float32; 0 is off.
        num_known: Columns from here on are -inf.

    Returns:
        ``[rows, vocab_size]`` float32, ``logits / temperature`` where kept and -inf elsewhere.
        Rows lie at a stride of whole blocks.
    """
    num_rows, num_columns = logits.shape
    assert logits.stride(1) == 1
    assert 0 < num_known <= num_columns
    block = min(_BLOCK, triton.next_power_of_2(num_columns))
    # Whole blocks: every pass after the first goes without a mask.
    size = triton.cdiv(num_columns, block) * block
    out = torch.empty(num_rows, size, dtype=torch.float32, device=logits.device)
    scratch = torch.empty(num_rows, block, dtype=torch.float32, device=logits.device)
    _truncate_kernel[(num_rows,)](
        logits,
        temperature,
        top_k,
        top_p,
        min_p,
        out,
        scratch,
        num_columns,
        num_known,
        logits.stride(0),
        size,
        BLOCK=block,
        num_warps=16,
    )
    return out[:, :num_columns]
