"""What a device keeps of each slot, so that a step of steady decode needs nothing from the host."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ferrule.runtime.kv_cache import KVCache
from ferrule.runtime.packet import send


class DeviceSlots:
    """Last token, length and block table by slot; one slot more than there are takes what pads.

    Args:
        num_slots: Most sequences at a time.
        max_length: Most tokens in a sequence.
        cache: Whose blocks the tables name.
        device: Where it lives.

    Attributes:
        last_tokens: ``[slots + 1]`` int64: the token that runs next.
        lengths: ``[slots + 1]`` int64: how many tokens are in the cache, so where that one goes.
        tables: ``[slots + 1, blocks]`` int32.
    """

    def __init__(
        self, num_slots: int, *, max_length: int, cache: KVCache, device: torch.device
    ) -> None:
        self.padding_slot = num_slots
        self.block_size = cache.block_size
        self.device = device
        max_blocks = -(-max_length // cache.block_size)
        self.last_tokens = torch.zeros(num_slots + 1, dtype=torch.int64, device=device)
        self.lengths = torch.zeros(num_slots + 1, dtype=torch.int64, device=device)
        self.tables = torch.full(
            (num_slots + 1, max_blocks), cache.scrap_block, dtype=torch.int32, device=device
        )
        self._grown: list[tuple[int, int, int]] = []

    def grow(self, slot: int, first: int, blocks: NDArray[np.int64]) -> None:
        """Notes that a slot's table has new blocks from an index on; ``flush`` sends them."""
        self._grown += [(slot, first + i, int(block)) for i, block in enumerate(blocks)]

    def flush(self) -> None:
        """Sends what ``grow`` has noted: nothing, in most steps of steady decode."""
        if not self._grown:
            return
        (columns,) = send([np.array(self._grown, dtype=np.int64).T.copy()], self.device)
        self.tables.index_put_((columns[0], columns[1]), columns[2].to(torch.int32))
        self._grown.clear()

    def place(self, slots: Tensor, lengths: Tensor, tokens: Tensor | None = None) -> None:
        """Sets slots' lengths, and their next tokens where the host knows them: ``[n]`` each."""
        self.lengths.index_copy_(0, slots, lengths)
        if tokens is not None:
            self.last_tokens.index_copy_(0, slots, tokens)

    def begin(self, slots: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What a step needs that gives each of these slots one token: ``[rows]`` int64 each.

        Returns:
            Tokens, positions, lengths with the new token, and rows of the cache that they take.
        """
        from ferrule.kernels.begin_step import begin_step

        return begin_step(slots, self.last_tokens, self.lengths, self.tables, self.block_size)
