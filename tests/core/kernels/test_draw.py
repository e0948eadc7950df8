"""The draw in Triton's interpreter, against the sampler's noise and torch's argmax."""

from __future__ import annotations

import pytest

SETUP = """
import torch
from ferrule.kernels import draw as module
from ferrule.kernels.draw import draw, num_parts
from ferrule.runtime.random import gumbel

INF = torch.inf
torch.manual_seed(0)

def reference(logits, temperature, seeds, positions, num_known):
    known = logits[:, :num_known].float()
    noisy = known / temperature[:, None] + gumbel(seeds, positions, num_known)
    return torch.where(temperature > 0, noisy.argmax(-1), known.argmax(-1))

def settings(num_rows):
    temperature = torch.tensor([0, 0.3, 1, 2.5, 7])[torch.randint(5, (num_rows,))]
    seeds = torch.randint(-(2**63), 2**63 - 1, (num_rows,))
    return temperature, seeds, torch.randint(2**17, (num_rows,))
"""

EQUAL_DRAWS = """
for num_rows, num_columns, num_known, dtype in [
    (1, 257, 257, torch.float32),
    (2, 5003, 5000, torch.float32),
    (5, 1000, 991, torch.float16),
    (140, 1000, 1000, torch.float32),
    (20, 5003, 5003, torch.float32),
]:
    wide = (torch.randn(num_rows, num_columns + 3) * 3).to(dtype)
    logits = wide[:, :num_columns]
    logits[:, num_known:] = INF
    given = settings(num_rows)
    tokens = draw(logits, *given, num_known)
    assert tokens.dtype is torch.int64
    assert torch.equal(tokens, reference(logits, *given, num_known)), num_rows
    row = num_rows - 1
    alone = draw(logits[row:], *(x[row:] for x in given), num_known)
    assert alone.item() == tokens[row].item()
    # Programs are slow here, and a single row would have 256 parts each time.
    module._MAX_PARTS = 8
edges = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63)])
flat = torch.zeros(25, 700)
given = torch.ones(25), edges.repeat(5), torch.tensor([0, 1, 2, 2**31, 2**40]).repeat_interleave(5)
assert torch.equal(draw(flat, *given, 700), reference(flat, *given, 700))
module._MAX_PARTS = 256
for rows in (1, 8, 64, 1000):
    parts = num_parts(rows)
    assert 1 <= parts <= 256 and parts & (parts - 1) == 0
"""

TIES_AND_ODD_VALUES = """
module._MAX_PARTS = 2
temperature = torch.tensor([0.0, 1.0, 0.5])
seeds, positions = torch.arange(3), torch.arange(3)

def chosen(logits, num_known):
    return draw(logits.expand(3, -1), temperature, seeds, positions, num_known).tolist()

tied = torch.zeros(1, 3000)
tied[0, [700, 1212, 2900]] = 1e4
assert chosen(tied, 3000)[0] == 700
tied[0, [700, 1212, 2900]] = INF
assert chosen(tied, 3000) == [700] * 3
nothing = torch.full((1, 3000), -INF)
assert chosen(nothing, 2000) == [0] * 3
nothing[0, 1999] = -3e38
assert chosen(nothing, 2000) == [1999] * 3, "what overflows is still no masked column"
nothing[0, 1999] = torch.nan
assert chosen(nothing, 2000) == [1999] * 3
assert chosen(torch.full((1, 3000), torch.nan), 10) == [0] * 3
"""


@pytest.mark.parametrize("program", [EQUAL_DRAWS, TIES_AND_ODD_VALUES])
def test_draws_equal_the_sampler(interpreted, program):
    interpreted(SETUP + program)
