"""Which KV blocks are in use, which are free, and which can be found again by their content."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class BlockPool:
    """Counts the users of each block and remembers what full blocks hold.

    A block is *used* (somebody's block table names it), *idle* (nobody's does, but its content
    has a key and can be claimed again) or *blank*. Idle and blank blocks are free: allocation
    takes blank ones first, then the idle ones that were given back longest ago.

    Args:
        num_blocks: Ids run from 0 to one less than this.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._num_users = [0] * num_blocks
        self._blank = list(range(num_blocks - 1, -1, -1))
        # In the order in which they lose their content: the first goes first.
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._block_of_key: dict[bytes, int] = {}
        self._key_of_block: list[bytes | None] = [None] * num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated now, those that are kept for reuse included."""
        return len(self._blank) + len(self._idle)

    def allocate(self, num_blocks: int) -> list[int] | None:
        """Takes blocks whose content is the caller's to write.

        Returns:
            The ids, each with one user; None, and nothing is taken, if fewer are free.
        """
        if num_blocks > self.num_free:
            return None
        blocks = [
            self._blank.pop() if self._blank else self._evict_oldest() for _ in range(num_blocks)
        ]
        for block in blocks:
            self._num_users[block] = 1
        return blocks

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """The blocks that hold the longest prefix of ``keys``; they are not claimed yet."""
        blocks: list[int] = []
        for key in keys:
            block = self._block_of_key.get(key)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def num_idle(self, blocks: Sequence[int]) -> int:
        """How many of these found blocks are free, so that claiming them takes free blocks."""
        return sum(block in self._idle for block in blocks)

    def claim(self, blocks: Sequence[int]) -> None:
        """Adds a user to blocks that ``find`` gave."""
        for block in blocks:
            if self._num_users[block] == 0:
                del self._idle[block]
            self._num_users[block] += 1

    def remember(self, block: int, key: bytes) -> None:
        """Lets a full block be found by its key, once the step that fills it is decided.

        If another block already holds the same content, that one stays the one to be found.
        """
        assert self._num_users[block] > 0, f"block {block} has no user"
        if key not in self._block_of_key:
            self._block_of_key[key] = block
            self._key_of_block[block] = key

    def release(self, blocks: Sequence[int]) -> None:
        """Takes a user from each block of a block table.

        The table is given back from its end, so that eviction shortens a cached prefix from the
        end: a block without those before it could never be found.
        """
        for block in reversed(blocks):
            self._num_users[block] -= 1
            if self._num_users[block] > 0:
                continue
            assert self._num_users[block] == 0, f"block {block} was released twice"
            if self._key_of_block[block] is None:
                self._blank.append(block)
            else:
                self._idle[block] = None

    def _evict_oldest(self) -> int:
        block, _ = self._idle.popitem(last=False)
        key = self._key_of_block[block]
        assert key is not None, f"idle block {block} has no key"
        del self._block_of_key[key]
        self._key_of_block[block] = None
        return block
