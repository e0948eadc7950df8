"""What the runner keeps of each running sequence: tokens and block table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ferrule.plan import Admission, Chunk


class Slots:
    """Tokens and block tables by slot, on the host.

    Args:
        num_slots: Most sequences at a time.
        max_length: Most tokens in a sequence.
        block_size: Tokens in a block.
        padding_block: What stands behind a sequence's own blocks.
    """

    def __init__(
        self, num_slots: int, *, max_length: int, block_size: int, padding_block: int
    ) -> None:
        self.block_size = block_size
        self._padding_block = padding_block
        max_blocks = -(-max_length // block_size)
        self.tokens: NDArray[np.int64] = np.zeros((num_slots, max_length + 1), dtype=np.int64)
        self.block_tables: NDArray[np.int64] = np.full(
            (num_slots, max_blocks), padding_block, dtype=np.int64
        )
        self.num_tokens: NDArray[np.int64] = np.zeros(num_slots, dtype=np.int64)
        self.num_blocks: NDArray[np.int64] = np.zeros(num_slots, dtype=np.int64)
        self.num_admissions = 0

    def admit(self, admission: Admission) -> None:
        """A sequence takes its slot; its block table begins empty."""
        self.num_admissions += 1
        slot, count = admission.slot, len(admission.tokens)
        self.tokens[slot, :count] = admission.tokens
        self.num_tokens[slot] = count
        self.num_blocks[slot] = 0
        self.block_tables[slot] = self._padding_block

    def grow(self, chunk: Chunk) -> Sequence[int]:
        """Adds the chunk's new blocks to its sequence's table.

        Returns:
            Those that hold nothing of the sequence yet; the others came from the prefix cache.
        """
        if not chunk.new_blocks:
            return ()
        first = int(self.num_blocks[chunk.slot])
        last = first + len(chunk.new_blocks)
        self.block_tables[chunk.slot, first:last] = chunk.new_blocks
        self.num_blocks[chunk.slot] = last
        num_filled = max(chunk.start // self.block_size - first, 0)
        return chunk.new_blocks[num_filled:]

    def append(self, slot: int, token: int) -> None:
        """Adds a sampled token."""
        self.tokens[slot, self.num_tokens[slot]] = token
        self.num_tokens[slot] += 1

    def cache_rows(
        self, slots: int | Sequence[int], positions: NDArray[np.int64] | Sequence[int]
    ) -> NDArray[np.int64]:
        """Where positions lie in a cache seen as rows of tokens.

        Args:
            slots: One sequence's, or one for each position.
            positions: Each within its own sequence.
        """
        at = np.asarray(positions)
        blocks = self.block_tables[slots, at // self.block_size]
        return blocks * self.block_size + at % self.block_size
