"""Reading packed planes (plane_layout.py): a chunk's codes, scales and minima.

A kernel gets pointers to ``low, high, scale, minimum, top``; those that a type lacks are any.
"""

# Jitted functions are not Python to a type checker.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

import triton
import triton.language as tl

from ferrule.kernels.plane_layout import PlaneLayout
from ferrule.kernels.unpack import codes_of_chunk

_TILE = tl.constexpr(64)  # rows, as in the layout


@triton.constexpr_function
def field(layout: PlaneLayout, name: str):
    """What a layout says, as a constant."""
    return getattr(layout, name)


@triton.jit
def chunk_codes(
    low,
    high,
    row,
    chunk,
    num_chunks,
    NUMBER: tl.constexpr,
    LAYOUT: tl.constexpr,
    FAST: tl.constexpr,
    TYPE: tl.constexpr,
):
    """Codes of some rows in the four groups of a chunk: four times ``[rows, group]``.

    Args:
        low: Plane.
        high: Plane.
        row: ``[rows]``.
        chunk: Its number in the row.
        num_chunks: Of a row.
        NUMBER: The chunk's number in its unit.
        LAYOUT: Of the planes.
        FAST: Whether bfloat16 codes are made by assembly.
        TYPE: Of the codes.
    """
    GROUP: tl.constexpr = field(LAYOUT, "group")
    LOW_BITS: tl.constexpr = field(LAYOUT, "low_bits")
    HIGH_BITS: tl.constexpr = field(LAYOUT, "high_bits")
    HAS_LEVELS: tl.constexpr = field(LAYOUT, "has_levels")
    WORDS: tl.constexpr = field(LAYOUT, "low_words")
    LOW_SPAN: tl.constexpr = field(LAYOUT, "low_span")
    ZERO: tl.constexpr = field(LAYOUT, "subtracted")
    tile = (row // _TILE).to(tl.int64)
    in_tile = ((row % _TILE) * GROUP)[:, None] + tl.arange(0, GROUP)[None, :]
    low_at = (tile * (num_chunks * WORDS // LOW_SPAN) + chunk * WORDS // LOW_SPAN)[:, None]
    low_at = low + low_at * (_TILE * GROUP) + in_tile
    low_word = tl.load(low_at, eviction_policy="evict_first")
    high_word = low_word
    if WORDS == 2:
        high_word = tl.load(low_at + _TILE * GROUP, eviction_policy="evict_first")
    elif HIGH_BITS > 0:
        HIGH_SPAN: tl.constexpr = field(LAYOUT, "high_span")
        high_at = (tile * (num_chunks // HIGH_SPAN) + chunk // HIGH_SPAN)[:, None]
        high_at = high + high_at * (_TILE * GROUP) + in_tile
        high_word = tl.load(high_at, eviction_policy="evict_first")
    if HAS_LEVELS:
        a, b, c, d = codes_of_chunk(
            low_word, high_word, NUMBER, LOW_BITS, HIGH_BITS, ZERO, False, tl.int32
        )
        return _level(a).to(TYPE), _level(b).to(TYPE), _level(c).to(TYPE), _level(d).to(TYPE)
    return codes_of_chunk(low_word, high_word, NUMBER, LOW_BITS, HIGH_BITS, ZERO, FAST, TYPE)


@triton.jit
def _level(code):
    """ggml's kvalues_iq4nl: -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113.

    A byte of two words of 64 bits is 128 more than a level.
    """
    place = ((code & 7) * 8).to(tl.int64)
    first = 0x766A5D4F3F2D1801 >> place
    second = -0x0E263A4A5966727F >> place
    return (tl.where(code < 8, first, second) & 255).to(tl.int32) - 128


@triton.jit
def chunk_tops(top, row, chunk, num_chunks, LAYOUT: tl.constexpr):
    """What the scales and the minima of 256 weights share: float32 ``[rows]`` twice."""
    PER_TOP: tl.constexpr = field(LAYOUT, "chunks_of_top")
    at = (row // _TILE).to(tl.int64) * (num_chunks // PER_TOP) + chunk // PER_TOP
    word = tl.load(top + at * _TILE + row % _TILE)
    if field(LAYOUT, "has_minimum"):
        return _half(word, 0), _half(word, 1)
    of_scale = word.to(tl.float32, bitcast=True)
    return of_scale, of_scale


@triton.jit
def chunk_scales(
    scale,
    minimum,
    of_scale,
    of_minimum,
    row,
    chunk,
    num_chunks,
    LAYOUT: tl.constexpr,
    FAST: tl.constexpr,
):
    """Scales of a chunk's four groups, then what is subtracted: eight times float32 ``[rows]``.

    Args:
        scale: Plane.
        minimum: Plane.
        of_scale: From ``chunk_tops``.
        of_minimum: The same.
        row: ``[rows]``.
        chunk: Its number in the row.
        num_chunks: Of a row.
        LAYOUT: Of the planes.
        FAST: As for the codes.
    """
    KIND: tl.constexpr = field(LAYOUT, "scales")
    HAS_MINIMUM: tl.constexpr = field(LAYOUT, "has_minimum")
    at = (row // _TILE).to(tl.int64) * num_chunks + chunk
    if KIND == "half":
        s0, s1, s2, s3 = _four_halves(scale, at, row)
        m0, m1, m2, m3 = s0, s1, s2, s3
        if HAS_MINIMUM:
            m0, m1, m2, m3 = _four_halves(minimum, at, row)
    else:
        at = at * _TILE + row % _TILE
        four = tl.load(scale + at)
        s0, s1, s2, s3 = _four_bytes(four, of_scale, KIND)
        m0, m1, m2, m3 = s0, s1, s2, s3
        if HAS_MINIMUM:
            four = four >> 4 if KIND == "nibbles" else tl.load(minimum + at)
            m0, m1, m2, m3 = _four_bytes(four, of_minimum, KIND)
    if FAST and HAS_MINIMUM:
        # Codes have 128 too much.
        m0, m1, m2, m3 = m0 + 128 * s0, m1 + 128 * s1, m2 + 128 * s2, m3 + 128 * s3
    return s0, s1, s2, s3, m0, m1, m2, m3


@triton.jit
def _four_halves(plane, at, row):
    at = plane + at * (2 * _TILE) + row % _TILE
    first, second = tl.load(at), tl.load(at + _TILE)
    return _half(first, 0), _half(first, 1), _half(second, 0), _half(second, 1)


@triton.jit
def _half(word, NUMBER: tl.constexpr):
    return (word >> (16 * NUMBER)).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _four_bytes(four, factor, KIND: tl.constexpr):
    return (
        factor * _byte(four, 0, KIND),
        factor * _byte(four, 1, KIND),
        factor * _byte(four, 2, KIND),
        factor * _byte(four, 3, KIND),
    )


@triton.jit
def _byte(four, NUMBER: tl.constexpr, KIND: tl.constexpr):
    if KIND == "signed":
        return ((four << (24 - 8 * NUMBER)) >> 24).to(tl.float32)
    if KIND == "nibbles":
        return ((four >> (8 * NUMBER)) & 15).to(tl.float32)
    return ((four >> (8 * NUMBER)) & 255).to(tl.float32)
