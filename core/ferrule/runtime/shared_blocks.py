"""Which sequences of a step begin with the same blocks, so that attention may read them once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ferrule.runtime.slots import Slots

_LEAST_MEMBERS = 8
_LEAST_TOKENS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedBlocks:
    """The largest group of sequences that begin alike.

    Attributes:
        slot: One of them.
        num_tokens: In the blocks that all of them share.
        starts: ``[sequences]`` int64: ``num_tokens`` for members, 0 for others.
    """

    slot: int
    num_tokens: int
    starts: NDArray[np.int64]

    @property
    def identity(self) -> tuple[int, int, bytes]:
        """Equal for groups that are equal."""
        return self.slot, self.num_tokens, self.starts.tobytes()


def find_shared(slots: Slots, chosen: Sequence[int], lengths: Sequence[int]) -> SharedBlocks | None:
    """Looks for blocks that pay to be read once; None: there are none.

    Args:
        slots: Block tables.
        chosen: Slots of the sequences that get one token.
        lengths: How many tokens each has, the new one included; it is never in a shared block.
    """
    if len(chosen) < _LEAST_MEMBERS:
        return None
    tables = slots.block_tables[list(chosen)]
    firsts, counts = np.unique(tables[:, 0], return_counts=True)
    best = int(counts.argmax())
    if counts[best] < _LEAST_MEMBERS:
        return None
    is_member = tables[:, 0] == firsts[best]
    members = tables[is_member]
    num_full = (int(np.asarray(lengths)[is_member].min()) - 1) // slots.block_size
    alike = (members[:, :num_full] == members[0, :num_full]).all(axis=0)
    num_blocks = num_full if alike.all() else int(alike.argmin())
    num_tokens = num_blocks * slots.block_size
    if num_tokens < _LEAST_TOKENS:
        return None
    return SharedBlocks(
        slot=chosen[int(is_member.argmax())],
        num_tokens=num_tokens,
        starts=np.where(is_member, num_tokens, 0).astype(np.int64),
    )
