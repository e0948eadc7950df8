"""The tensors that block ids point into."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ferrule.layers.attention import AttentionSpec

NUM_EXTRA_BLOCKS = 2
"""Blocks that are allocated beside those that can be used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCache:
    """Keys and values of one layer.

    Attributes:
        keys: ``[blocks, block_size, kv_heads, head_dim]``.
        values: The same.
    """

    keys: Tensor
    values: Tensor


class KVCache:
    """Paged keys and values of all layers.

    Two blocks more than can be used are allocated: one stays zero, and what pads a block table
    points to it; the other takes what rows that pad a batch write.

    Args:
        specs: The attention layers.
        num_blocks: Blocks in each layer that can be used.
        block_size: Tokens in a block.
        dtype: Of keys and values.
        device: Where they live.
    """

    def __init__(
        self,
        specs: Sequence[AttentionSpec],
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size

        # Layers of one shape lie in one tensor, so that a block is cleared by one call.
        self._groups: list[Tensor] = []
        layers: dict[int, LayerCache] = {}
        shapes = [(spec.num_kv_heads, spec.head_dim) for spec in specs]
        for shape in dict.fromkeys(shapes):
            members = [index for index, other in enumerate(shapes) if other == shape]
            group = _zeros(
                (2, len(members), num_blocks + NUM_EXTRA_BLOCKS, block_size, *shape), dtype, device
            )
            self._groups.append(group)
            for place, index in enumerate(members):
                layers[index] = LayerCache(keys=group[0, place], values=group[1, place])
        self.layers = [layers[index] for index in range(len(specs))]
        self._device = device

    @property
    def padding_block(self) -> int:
        """Id of the block that stays zero."""
        return self.num_blocks

    @property
    def scrap_block(self) -> int:
        """Id of the block that nobody reads."""
        return self.num_blocks + 1

    def clear(self, blocks: Sequence[int]) -> None:
        """Zeroes blocks that are handed to a sequence.

        A place that a sequence has not written has weight 0 in its attention, but 0 times NaN is
        NaN: what one sequence left (a float16 overflow) must not reach another.
        """
        if not blocks:
            return
        ids = torch.tensor(blocks, device=self._device)
        for group in self._groups:
            group.index_fill_(2, ids, 0)

    def clear_values(self, blocks: Tensor) -> None:
        """Zeroes values alone, for kernels that never use the score of an unwritten key.

        Args:
            blocks: ``[n]`` int64 ids on the cache's device.
        """
        for group in self._groups:
            group[1].index_fill_(1, blocks, 0)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros for the same reason as in ``clear``.

    On the host they come from calloc, which hands out pages when they are first written, so a
    cache sized for the worst case costs only what is used.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(np.zeros(num_bytes, dtype=np.uint8)).view(dtype).view(shape)


def block_bytes(specs: Sequence[AttentionSpec], *, block_size: int, dtype: torch.dtype) -> int:
    """Bytes of one block over all layers."""
    channels = sum(2 * spec.num_kv_heads * spec.head_dim for spec in specs)
    return channels * block_size * dtype.itemsize
