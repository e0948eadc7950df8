"""What a decode step reads of its slots, in Triton's interpreter."""

from __future__ import annotations

PROGRAM = """
from types import SimpleNamespace
import numpy as np
from ferrule.kernels.begin_step import begin_step
from ferrule.runtime.device_slots import DeviceSlots

# Slots of a runner: two hold sequences, the last one takes what pads.
cache = SimpleNamespace(block_size=4, scrap_block=31)
slots = DeviceSlots(100, max_length=10, cache=cache, device=torch.device("cpu"))
for slot, blocks in ((2, [7, 5]), (0, [9])):
    slots.grow(slot, 0, np.array(blocks))
slots.flush()
slots.place(torch.tensor([2, 0]), torch.tensor([6, 3]), torch.tensor([70, 80]))
tokens, positions, lengths, rows = slots.begin(torch.tensor([0, 2, 100, 2]))
assert tokens.tolist() == [80, 70, 0, 70]
assert positions.tolist() == [3, 6, 0, 6]
assert lengths.tolist() == [4, 7, 1, 7]
assert rows.tolist() == [9 * 4 + 3, 5 * 4 + 2, 31 * 4, 5 * 4 + 2]
assert slots.lengths[2] == 6 and slots.last_tokens[2] == 70, "nothing is changed yet"

# Any number of rows, in any order; rows of the cache that 32 bits do not hold.
for num_rows in (1, 63, 64, 65, 200):
    order = torch.randint(0, 300, (num_rows,))
    last, at = torch.randint(2**40, (300,)), torch.randint(0, 8 * 1000, (300,))
    tables = torch.randint(2**31 - 1, (300, 8), dtype=torch.int32)
    tokens, positions, lengths, rows = begin_step(order, last, at, tables, 1000)
    for x in (tokens, positions, lengths, rows):
        assert x.shape == (num_rows,) and x.dtype is torch.int64
    for row, slot in enumerate(order.tolist()):
        position = at[slot].item()
        block = tables[slot, position // 1000].item()
        assert tokens[row] == last[slot] and positions[row] == position
        assert lengths[row] == position + 1
        assert rows[row] == block * 1000 + position % 1000
"""


def test_each_row_begins_where_its_sequence_ends(interpret):
    interpret(PROGRAM)
