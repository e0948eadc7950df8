"""Which KV blocks each sequence holds, and what of its prefix the pool had already."""

from __future__ import annotations

from ferrule.engine.block_pool import BlockPool
from ferrule.engine.sequence import Sequence


class BlockTables:
    """Gives sequences their blocks and takes them back.

    Args:
        pool: The blocks.
        block_size: Tokens a block holds.
        enable_prefix_caching: Whether full blocks are found again by later sequences.

    Attributes:
        num_prefix_queries: Prompt tokens looked up in the prefix cache.
        num_prefix_hits: How many of them were found.
    """

    def __init__(self, pool: BlockPool, *, block_size: int, enable_prefix_caching: bool) -> None:
        self._pool = pool
        self._block_size = block_size
        self._caches_prefixes = enable_prefix_caching
        self.num_prefix_queries = 0
        self.num_prefix_hits = 0

    @property
    def used_share(self) -> float:
        """Share of the blocks that somebody holds, 0 to 1."""
        return 1 - self._pool.num_free / self._pool.num_blocks

    def claim(self, sequence: Sequence, *, num_kept_free: int) -> bool:
        """Gives a sequence that holds none the blocks of all its tokens.

        What the prefix cache has of it counts as computed. All or nothing is claimed.

        Args:
            sequence: A sequence about to be admitted.
            num_kept_free: How many blocks must be free afterwards.

        Returns:
            Whether enough blocks were free.
        """
        pool = self._pool
        found = self._find_prefix(sequence)
        num_new = -(-len(sequence.tokens) // self._block_size) - len(found)
        if num_new + pool.num_idle(found) + num_kept_free > pool.num_free:
            return False
        pool.claim(found)
        new_blocks = pool.allocate(num_new)
        assert new_blocks is not None, "free blocks were counted wrongly"
        sequence.blocks = found + new_blocks
        sequence.num_remembered = len(found)
        sequence.num_computed = len(found) * self._block_size
        if sequence.num_admissions == 0:
            self._count_prefix(sequence)
        return True

    def grow(self, sequence: Sequence) -> list[int] | None:
        """Adds a block to the table of a sequence whose blocks are full.

        Returns:
            What was added; None if none is free.
        """
        self.remember_full_blocks(sequence)
        blocks = self._pool.allocate(1)
        if blocks is not None:
            sequence.blocks += blocks
        return blocks

    def remember_full_blocks(self, sequence: Sequence) -> None:
        """Lets the pool find the blocks that are filled once the launched steps have run.

        The last step need not have run: it writes the keys and values of all its tokens before
        any of them is read, so what it fills may be shared within it already. A block with a
        token that is not known yet has no key.
        """
        num_known = min(sequence.num_computed, len(sequence.tokens))
        num_full = num_known // self._block_size
        if not self._caches_prefixes or num_full == sequence.num_remembered:
            return
        keys = sequence.block_keys(num_full, self._block_size)
        for index in range(sequence.num_remembered, num_full):
            self._pool.remember(sequence.blocks[index], keys[index])
        sequence.num_remembered = num_full

    def release(self, sequence: Sequence) -> None:
        """Takes all blocks of a sequence; full ones can be found until they are needed."""
        self.remember_full_blocks(sequence)
        self._pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.num_remembered = 0
        sequence.num_computed = 0

    def _find_prefix(self, sequence: Sequence) -> list[int]:
        if not self._may_share(sequence):
            return []
        # The last token always runs, because the next one is drawn from its logits.
        num_blocks = (len(sequence.tokens) - 1) // self._block_size
        return self._pool.find(sequence.block_keys(num_blocks, self._block_size))

    def _count_prefix(self, sequence: Sequence) -> None:
        sequence.num_cached = sequence.num_computed
        if self._may_share(sequence):
            self.num_prefix_queries += sequence.num_prompt
            self.num_prefix_hits += sequence.num_cached

    def _may_share(self, sequence: Sequence) -> bool:
        # Log probabilities of a prompt need the logits of every position, which a cache of keys
        # and values does not hold.
        return self._caches_prefixes and sequence.sampling.prompt_logprobs is None
