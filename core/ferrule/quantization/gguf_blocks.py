"""Every GGUF block type that can be dequantised, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from ferrule.quantization import gguf_iq, gguf_k, gguf_legacy


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockType:
    """A row of weights is a run of blocks of this type.

    Attributes:
        block_size: Weights in a block.
        block_bytes: Bytes of a block.
        dequantize_blocks: ``[..., block_bytes]`` uint8 -> ``[..., block_size]`` float32, on the
            device of its argument.
    """

    block_size: int
    block_bytes: int
    dequantize_blocks: Callable[[Tensor], Tensor]

    def dequantize(self, data: Tensor) -> Tensor:
        """The weights of whole rows, as ``gguf.quants.dequantize`` gives them.

        Args:
            data: ``[..., row_bytes]`` uint8 on any device; ``row_bytes`` is a multiple of
                ``block_bytes``.

        Returns:
            ``[..., row_bytes // block_bytes * block_size]`` float32 on the same device.
        """
        num_blocks, rest = divmod(data.shape[-1], self.block_bytes)
        assert rest == 0, f"{data.shape[-1]} bytes are no whole number of blocks"
        blocks = data.unflatten(-1, (num_blocks, self.block_bytes))
        return self.dequantize_blocks(blocks).flatten(-2)


def _block(size: int, num_bytes: int, function: Callable[[Tensor], Tensor]) -> BlockType:
    return BlockType(block_size=size, block_bytes=num_bytes, dequantize_blocks=function)


DEQUANTIZERS: Mapping[str, BlockType] = MappingProxyType(
    {
        "Q4_0": _block(32, 18, gguf_legacy.q4_0),
        "Q4_1": _block(32, 20, gguf_legacy.q4_1),
        "Q5_0": _block(32, 22, gguf_legacy.q5_0),
        "Q5_1": _block(32, 24, gguf_legacy.q5_1),
        "Q8_0": _block(32, 34, gguf_legacy.q8_0),
        "Q2_K": _block(256, 84, gguf_k.q2_k),
        "Q3_K": _block(256, 110, gguf_k.q3_k),
        "Q4_K": _block(256, 144, gguf_k.q4_k),
        "Q5_K": _block(256, 176, gguf_k.q5_k),
        "Q6_K": _block(256, 210, gguf_k.q6_k),
        "IQ4_NL": _block(32, 18, gguf_iq.iq4_nl),
        "IQ4_XS": _block(256, 136, gguf_iq.iq4_xs),
    }
)
"""By the names that ggml gives its types."""
