"""One token a row from its logits, with the noise of ``runtime/random.py``.

A row's columns are split over several programs, so that a few rows fill the device as well; a
second kernel takes the best of the parts. A row depends on nothing but itself.
"""

# Jitted functions are not Python to a type checker.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 512
_MAX_PARTS = 256
# splitmix64 (Steele, Lea, Flood 2014), the numbers of runtime/random.py as unsigned ones: a right
# shift of those brings in zeros.
_STEP = tl.constexpr(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = tl.constexpr(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = tl.constexpr(0x94D049BB133111EB)
_INFINITY = tl.constexpr(float("inf"))
_LOWEST = tl.constexpr(-3.4028234663852886e38)
# Above every column.
_NOWHERE = tl.constexpr(2**31 - 1)


@triton.jit
def _mix(x):
    x = (x ^ (x >> 30)) * _MULTIPLIER_1
    x = (x ^ (x >> 27)) * _MULTIPLIER_2
    return x ^ (x >> 31)


@triton.jit
def _gumbel(key, column):
    bits = _mix(key + (column + 1).to(tl.uint64) * _STEP) >> 41
    uniform = (bits.to(tl.int32).to(tl.float32) + 0.5) * (2.0**-23)
    return -tl.log(-tl.log(uniform))


@triton.jit
def _part_kernel(
    logits,
    temperature,
    seeds,
    positions,
    values,
    columns,
    num_columns,
    num_known,
    row_stride,
    blocks_a_part,
    BLOCK: tl.constexpr,
):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    warmth = tl.load(temperature + row)
    seed = tl.load(seeds + row).to(tl.uint64)
    position = tl.load(positions + row).to(tl.uint64)
    key = _mix(_mix(seed + _STEP) ^ (position * _STEP))
    begin = part * blocks_a_part * BLOCK
    end = tl.minimum(begin + blocks_a_part * BLOCK, num_known)
    lane = tl.arange(0, BLOCK)
    # Every lane keeps its best and where that was: one reduction a program, not one a block.
    best = tl.full([BLOCK], -_INFINITY, tl.float32)
    chosen = begin + lane
    for start in range(begin, end, BLOCK):
        column = start + lane
        # The mask ends with the row: unlike num_known, that is mostly a multiple of 16, and loads
        # stay wide.
        value = tl.load(logits + row * row_stride + column, mask=column < num_columns, other=0.0)
        value = value.to(tl.float32)
        # torch.argmax takes NaN for the greatest as well.
        value = tl.where(value == value, value, _INFINITY)
        value = tl.where(column < num_known, value, -_INFINITY)
        if warmth > 0:
            # Rounded as torch rounds; what overflows stays above a masked column.
            scaled = tl.maximum(tl.div_rn(value, warmth), _LOWEST)
            value = tl.where(value > -_INFINITY, scaled + _gumbel(key, column), value)
        # Columns of a lane ascend, so the lower one stays on a tie.
        is_better = value > best
        chosen = tl.where(is_better, column, chosen)
        best = tl.where(is_better, value, best)
    top = tl.max(best, 0)
    at = row * tl.num_programs(1) + part
    tl.store(values + at, top)
    tl.store(columns + at, tl.min(tl.where(best == top, chosen, _NOWHERE), 0))


@triton.jit
def _join_kernel(values, columns, tokens, PARTS: tl.constexpr):
    row, part = tl.program_id(0), tl.arange(0, PARTS)
    value = tl.load(values + row * PARTS + part)
    column = tl.load(columns + row * PARTS + part)
    # A part beyond the known columns holds -inf and a column above those of part 0, which therefore
    # wins when a row has nothing but -inf.
    token = tl.min(tl.where(value == tl.max(value, 0), column, _NOWHERE), 0)
    tl.store(tokens + row, token)


def draw(
    logits: Tensor, temperature: Tensor, seeds: Tensor, positions: Tensor, num_known: int
) -> Tensor:
    """Chooses one token a row: the likeliest, or a draw from ``softmax(logits / temperature)``.

    The draw is the Gumbel-max trick of ``runtime/random.py``, with the same integers and the same
    float32 arithmetic. The launch depends on the shape alone, so it can be captured in a graph.
    The lowest column wins ties; NaN counts as infinity, and a row of nothing but -inf gives 0.

    Args:
        logits: ``[rows, vocab_size]`` float32, float16 or bfloat16, rows at any stride.
        temperature: ``[rows]`` float32; 0 takes the likeliest.
        seeds: ``[rows]`` int64.
        positions: ``[rows]`` int64, the index that the drawn token will have.
        num_known: Columns from here on are never chosen.

    Returns:
        ``[rows]`` int64.
    """
    num_rows, num_columns = logits.shape
    assert logits.stride(1) == 1
    assert 0 < num_known <= num_columns
    parts = num_parts(num_rows)
    values = torch.empty(num_rows, parts, dtype=torch.float32, device=logits.device)
    columns = torch.empty(num_rows, parts, dtype=torch.int32, device=logits.device)
    tokens = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    _part_kernel[(num_rows, parts)](
        logits,
        temperature,
        seeds,
        positions,
        values,
        columns,
        num_columns,
        num_known,
        logits.stride(0),
        triton.cdiv(triton.cdiv(num_known, _BLOCK), parts),
        BLOCK=_BLOCK,
        num_warps=4,
    )
    _join_kernel[(num_rows,)](values, columns, tokens, PARTS=parts, num_warps=1)
    return tokens


def num_parts(num_rows: int) -> int:
    """Parts of each row: two to four programs for each of some 130 multiprocessors.

    Args:
        num_rows: Of the logits.
    """
    wanted = triton.cdiv(2 * 132, max(num_rows, 1))
    return min(_MAX_PARTS, triton.next_power_of_2(wanted))
