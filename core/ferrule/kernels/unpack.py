"""Weights of a chunk of packed planes (plane_layout.py), in registers.

bfloat16 has seven bits of mantissa: or-ing a code into that of 128 makes 128 + code without a
conversion, for two weights in one operation.
"""

# Jitted functions are not Python to a type checker.
# pyright: reportMissingParameterType=false, reportIndexIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.constexpr_function
def assembly(low_bits, high_bits, low_shift, high_shift, subtracted):
    """PTX from a word of low bits, $4, and one of high bits, $5, to four times two bfloat16.

    Args:
        low_bits: Of a code, in words of their own.
        high_bits: The same.
        low_shift: Where in a word the first group's field begins.
        high_shift: The same.
        subtracted: What is taken from 128 + code; 0: nothing.
    """
    # By multiply-and-add: bfloat16 has no subtraction before compute capability 9.
    negative = hex(0xC300C300 + subtracted * 0x10001)
    lines = [f".reg .b32 s, one, c; mov.b32 one, 0x3F803F80; mov.b32 c, {negative};"]
    for group in range(4):
        out = f"${group}"
        start = low_shift + group * low_bits
        lines.append(_moved_field("$4", start, 0, low_bits, "0x43004300", out))
        if high_bits:
            start = high_shift + group * high_bits
            lines.append(_moved_field("$5", start, low_bits, high_bits, out, out))
        if subtracted:
            lines.append(f"fma.rn.bf16x2 {out}, {out}, one, c;")
    return "{ " + " ".join(lines) + " }"


@triton.constexpr_function
def _moved_field(source, start, place, bits, under, out):
    """Moves a field of each half of a word to a place in it, over what is there."""
    mask, moved, shift = hex(((1 << bits) - 1 << place) * 0x10001), start - place, ""
    if moved:
        way = "shr.b32" if moved > 0 else "shl.b32"
        shift, source = f"{way} s, {source}, {abs(moved)}; ", "s"
    return f"{shift}lop3.b32 {out}, {source}, {mask}, {under}, 0xEA;"


@triton.constexpr_function
def byte_assembly():
    """PTX from two words of signed bytes to four times two bfloat16: -128 + 128 + 7 bits."""
    lines = [".reg .b32 s, t, minus; mov.b32 minus, 0xBF80BF80;"]
    for group in range(4):
        source, out = f"${4 + group // 2}", f"${group}"
        if group % 2:
            lines.append(f"shr.b32 s, {source}, 8;")
            source = "s"
        lines += [
            f"lop3.b32 {out}, {source}, 0x007F007F, 0x43004300, 0xEA;",
            f"lop3.b32 t, {source}, 0x00800080, 0x43004300, 0xEA;",
            f"fma.rn.bf16x2 {out}, t, minus, {out};",
        ]
    return "{ " + " ".join(lines) + " }"


@triton.constexpr_function
def operands(count):
    """Constraints of assembly that takes ``count`` words."""
    return "=r,=r,=r,=r" + ",r" * count


@triton.constexpr_function
def phase(chunk, bits):
    """Where in its word a chunk's first field begins."""
    return 4 * bits * (chunk % max(1, 4 // bits)) if bits else 0


@triton.jit
def codes_of_chunk(
    low,
    high,
    NUMBER: tl.constexpr,
    LOW_BITS: tl.constexpr,
    HIGH_BITS: tl.constexpr,
    SUBTRACTED: tl.constexpr,
    FAST: tl.constexpr,
    TYPE: tl.constexpr,
):
    """Codes of the four groups of chunk ``NUMBER``, less what is subtracted.

    ``FAST``, in bfloat16: plus 128 if nothing is subtracted, for the caller to account for (signed
    bytes are as they are).
    """
    LOW_AT: tl.constexpr = phase(NUMBER, LOW_BITS)
    HIGH_AT: tl.constexpr = phase(NUMBER, HIGH_BITS)
    if FAST:
        TYPES: tl.constexpr = (tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16)
        if LOW_BITS == 8:
            a, b, c, d = tl.inline_asm_elementwise(
                byte_assembly(), operands(2), [low, high], dtype=TYPES, is_pure=True, pack=2
            )
        elif HIGH_BITS == 0:
            a, b, c, d = tl.inline_asm_elementwise(
                assembly(LOW_BITS, HIGH_BITS, LOW_AT, HIGH_AT, SUBTRACTED),
                operands(1),
                [low],
                dtype=TYPES,
                is_pure=True,
                pack=2,
            )
        else:
            a, b, c, d = tl.inline_asm_elementwise(
                assembly(LOW_BITS, HIGH_BITS, LOW_AT, HIGH_AT, SUBTRACTED),
                operands(2),
                [low, high],
                dtype=TYPES,
                is_pure=True,
                pack=2,
            )
    elif LOW_BITS == 8:
        a, b = (low << 8) >> 8, low >> 8
        c, d = (high << 8) >> 8, high >> 8
    else:
        a = _code(low, high, LOW_AT, HIGH_AT, 0, LOW_BITS, HIGH_BITS) - SUBTRACTED
        b = _code(low, high, LOW_AT, HIGH_AT, 1, LOW_BITS, HIGH_BITS) - SUBTRACTED
        c = _code(low, high, LOW_AT, HIGH_AT, 2, LOW_BITS, HIGH_BITS) - SUBTRACTED
        d = _code(low, high, LOW_AT, HIGH_AT, 3, LOW_BITS, HIGH_BITS) - SUBTRACTED
    return a.to(TYPE), b.to(TYPE), c.to(TYPE), d.to(TYPE)


@triton.jit
def _code(
    low,
    high,
    LOW_AT: tl.constexpr,
    HIGH_AT: tl.constexpr,
    GROUP: tl.constexpr,
    LOW_BITS: tl.constexpr,
    HIGH_BITS: tl.constexpr,
):
    code = (low >> (LOW_AT + GROUP * LOW_BITS)) & ((1 << LOW_BITS) - 1)
    if HIGH_BITS > 0:
        above = (high >> (HIGH_AT + GROUP * HIGH_BITS)) & ((1 << HIGH_BITS) - 1)
        code |= above << LOW_BITS
    return code


@triton.jit
def scaled_codes(
    codes,
    scale,
    minimum,
    HAS_MINIMUM: tl.constexpr,
    FAST: tl.constexpr,
    TYPE: tl.constexpr,
):
    """``scale * code - minimum``, computed in float32: ``[rows, group], [rows], [rows]``.

    By assembly, because the compiler would take pairs of bfloat16 apart and put them together.
    """
    if FAST and HAS_MINIMUM:
        return tl.inline_asm_elementwise(
            scaling_assembly(),
            "=r,r,f,f,f,f",
            [codes, scale[:, None], -minimum[:, None]],
            dtype=tl.bfloat16,
            is_pure=True,
            pack=2,
        )
    if FAST:
        return tl.inline_asm_elementwise(
            scaling_assembly(),
            "=r,r,f,f,f,f",
            [codes, scale[:, None], tl.zeros_like(scale)[:, None]],
            dtype=tl.bfloat16,
            is_pure=True,
            pack=2,
        )
    scaled = codes.to(tl.float32) * scale[:, None]
    if HAS_MINIMUM:
        scaled -= minimum[:, None]
    return scaled.to(TYPE)


@triton.constexpr_function
def scaling_assembly():
    """PTX from two bfloat16 $1, two scales $2 $3 and two summands $4 $5 to two bfloat16."""
    return (
        "{ .reg .b32 a, b; .reg .f32 c, d; shl.b32 a, $1, 16; and.b32 b, $1, 0xFFFF0000; "
        "fma.rn.f32 c, a, $2, $4; fma.rn.f32 d, b, $3, $5; cvt.rn.bf16x2.f32 $0, d, c; }"
    )
