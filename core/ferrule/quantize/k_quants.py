"""Weights into GGUF's k-quants, as ggml's reference does it.

Blocks of 256 weights, whose groups' scales are quantised themselves: quantize_row_q4_K_ref,
quantize_row_q5_K_ref and quantize_row_q6_K_ref of ggml-quants.c. Each function takes
``[blocks, 256]`` float32 and gives ``[blocks, block_bytes]`` uint8.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ferrule.quantize.k_groups import scales_and_minima, signed_scales

BLOCK = 256


def q4_k(blocks: Tensor) -> Tensor:
    """Groups of 32, codes of 4 bits, scales and minima of 6."""
    head, codes = _lines(blocks, 15, first=-1.0, num_steps=20)
    return torch.cat([head, packed(codes, 4, runs=4)], dim=-1)


def q5_k(blocks: Tensor) -> Tensor:
    """Groups of 32, codes of 5 bits, scales and minima of 6."""
    head, codes = _lines(blocks, 31, first=-0.5, num_steps=15)
    return torch.cat([head, packed(codes >> 4, 1), packed(codes & 15, 4, runs=4)], dim=-1)


def q6_k(blocks: Tensor) -> Tensor:
    """Groups of 16, codes of 6 bits, scales of 8."""
    groups = blocks.unflatten(-1, (16, 16))
    exact = signed_scales(groups.flatten(0, 1), 32).unflatten(0, (-1, 16))
    largest = exact.gather(-1, exact.abs().argmax(-1, keepdim=True))
    is_zero = largest.abs() < 1e-15
    inverse = -128 / largest.masked_fill(is_zero, 1)
    scales = (inverse * exact).round_().clamp_(max=127).masked_fill(is_zero, 0)
    whole = (1 / inverse).masked_fill(is_zero, 0).half()
    codes = _divided(groups, (whole.float() * scales).unsqueeze(-1)).clamp_(-32, 31)
    codes = (codes + 32).to(torch.uint8).flatten(-2)
    low, high = packed(codes & 15, 4, runs=2), packed(codes >> 4, 2, runs=2)
    return torch.cat([low, high, scales.to(torch.int8).view(torch.uint8), _bytes(whole)], dim=-1)


def packed(codes: Tensor, bits: int, *, runs: int = 1) -> Tensor:
    """Small integers into bytes, the inverse of ``quantization.gguf_bits.fields``.

    ``[..., n]`` uint8 -> ``[..., n * bits / 8]`` uint8.
    """
    pieces = codes.unflatten(-1, (runs, 8 // bits, -1)).unbind(-2)
    out = pieces[0].clone()
    for index, piece in enumerate(pieces[1:], start=1):
        out |= piece << (bits * index)
    return out.flatten(-2)


def _lines(blocks: Tensor, top: int, *, first: float, num_steps: int) -> tuple[Tensor, Tensor]:
    """The 16 bytes of scales and minima, and codes ``[blocks, 256]`` of ``scale * code - min``."""
    groups = blocks.unflatten(-1, (8, 32))
    found = scales_and_minima(groups.flatten(0, 1), top, first=first, num_steps=num_steps)
    (d, scales), (dmin, minima) = (_six_bits(each.unflatten(0, (-1, 8))) for each in found)
    scale, minimum = d.float() * scales, dmin.float() * minima
    codes = _divided(groups + minimum.unsqueeze(-1), scale.unsqueeze(-1)).clamp_(0, top)
    head = torch.cat([_bytes(d), _bytes(dmin), _interleaved(scales, minima)], dim=-1)
    return head, codes.to(torch.uint8).flatten(-2)


def _six_bits(values: Tensor) -> tuple[Tensor, Tensor]:
    """A half float ``[blocks, 1]`` and codes ``[blocks, 8]`` of 0 to 63 whose products are near."""
    largest = values.amax(-1, keepdim=True)
    inverse = torch.where(largest > 0, 63 / largest, 0)
    return (largest / 63).half(), (inverse * values).round_().clamp_(max=63)


def _interleaved(scales: Tensor, minima: Tensor) -> Tensor:
    """Eight scales and minima of 6 bits in 12 bytes; see ``quantization.gguf_k`` for the order."""
    s, m = scales.to(torch.uint8), minima.to(torch.uint8)
    first = (s[:, :4], (s[:, 4:] >> 4) << 6)
    second = (m[:, :4], (m[:, 4:] >> 4) << 6)
    nibbles = (s[:, 4:] & 15) | ((m[:, 4:] & 15) << 4)
    return torch.cat([first[0] | first[1], second[0] | second[1], nibbles], dim=-1)


def _divided(values: Tensor, scale: Tensor) -> Tensor:
    """The nearest whole multiples; 0 where the scale is."""
    return torch.where(scale == 0, 0, values / scale).round_()


def _bytes(halves: Tensor) -> Tensor:
    return halves.contiguous().view(torch.uint8)
