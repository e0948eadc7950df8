"""The filters in Triton's interpreter, against the sampler's sort in float64."""

from __future__ import annotations

import pytest

SETUP = """
import itertools, torch
from ferrule.kernels import truncate as module
from ferrule.kernels.truncate import truncate
from ferrule.runtime.sampler import _filter
from ferrule.runtime.sampling_state import SamplingState

INF = torch.inf
torch.manual_seed(0)

def tensors(settings):
    temperature, top_k, top_p, min_p = zip(*settings, strict=True)
    return (
        torch.tensor(temperature, dtype=torch.float32),
        torch.tensor(top_k),
        torch.tensor(top_p, dtype=torch.float32),
        torch.tensor(min_p, dtype=torch.float32),
    )

def state_of(settings, num_columns):
    state = SamplingState(len(settings), vocab_size=num_columns, device=torch.device("cpu"))
    state.temperature, state.top_k, state.top_p, state.min_p = tensors(settings)
    return state, torch.arange(len(settings))

def undecided(scaled, kept_by_top_k, top_p, min_p):
    # Tokens so close to a limit that float32 may see them on its other side.
    ordered, order = scaled.masked_fill(~kept_by_top_k, -INF).sort(descending=True, stable=True)
    probs = ordered.softmax(-1)
    before = probs.cumsum(-1) - probs
    near_top_p = (top_p[:, None] < 1) & ((before - top_p[:, None]).abs() < 3e-6)
    ratio = probs / probs[:, :1]
    near_min_p = (ratio - min_p[:, None]).abs() < 1e-5 * min_p[:, None]
    return torch.empty_like(near_top_p).scatter_(-1, order, near_top_p | near_min_p)

def check(logits, settings, num_known):
    temperature, top_k, top_p, min_p = tensors(settings)
    out = truncate(logits, temperature, top_k, top_p, min_p, num_known)
    assert out.shape == logits.shape and out.dtype is torch.float32
    scaled = logits.float() / temperature.where(temperature > 0, 1)[:, None]
    scaled[:, num_known:] = -INF
    state, index = state_of(settings, logits.shape[1])
    exact = _filter(scaled.double(), index, state) > -INF
    only_top_k, _ = state_of([(t, k, 1, 0) for t, k, _, _ in settings], logits.shape[1])
    kept_by_top_k = _filter(scaled, index, only_top_k) > -INF
    free = undecided(scaled.double(), kept_by_top_k, top_p, min_p)
    exact[temperature == 0] = scaled[temperature == 0] > -INF
    free[temperature == 0] = False
    kept = out > -INF
    wrong = ((kept != exact) & ~free).nonzero()
    assert not len(wrong), [(settings[r], c, scaled[r, c]) for r, c in wrong[:5].tolist()]
    assert torch.equal(out[kept], scaled[kept])
    assert torch.equal(kept.any(-1), (scaled > -INF).any(-1)), "the likeliest stays"
    return out

def kinds(num_columns):
    normal = torch.randn(num_columns) * 4
    masked = normal.where(torch.rand(num_columns) < 0.03, -INF)
    huge = torch.randn(num_columns) * 1e37
    tiny = torch.randn(num_columns) * 10.0 ** torch.randint(-44, 2, (num_columns,))
    return [normal, normal.round(), (normal / 5).round(), masked, huge, tiny]
"""

EVERY_SETTING = """
grid = itertools.product((0, 0.3, 1, 2.5), (0, 1, 3, 50), (1, 0.9, 0.1, 1e-6), (0, 0.05, 0.5))
settings = list(grid)
order = torch.randperm(len(settings)).tolist()
# Blocks smaller than the row: candidates are gathered, ties counted across blocks.
for num_columns, block, num_rows in ((257, 8192, 72), (1000, 128, 72), (5003, 1024, 48)):
    module._BLOCK = block
    chosen, order = order[:num_rows], order[num_rows:]
    logits = [kinds(num_columns)[i % 6] for i in range(num_rows)]
    check(torch.stack(logits), [settings[i] for i in chosen], num_columns - 5)
assert not order
for num_rows, dtype in ((1, torch.float16), (2, torch.float32), (5, torch.float16)):
    wide = torch.randn(num_rows, 400).to(dtype)
    chosen = [settings[i] for i in torch.randperm(len(settings))[:num_rows]]
    check(wide[:, :333], chosen, 333)
"""

TIES = """
module._BLOCK = 64
equal = torch.zeros(1, 300)
for top_k in (1, 64, 65, 299, 300, 301):
    out = check(equal, [(1, top_k, 1, 0)], 300)
    assert (out[0] > -INF).nonzero().flatten().tolist() == list(range(min(top_k, 300)))
out = check(equal, [(1, 40, 0.51, 0)], 300)
assert (out[0] > -INF).nonzero().flatten().tolist() == list(range(21))
zeros = torch.tensor([[-0.0, 0.0, -0.0, 1e-45, -1e-45]])
out = check(zeros, [(1, 3, 1, 0)], 5)
assert (out[0] > -INF).tolist() == [True, True, False, True, False]
powers = torch.tensor([2.0**i for i in range(-149, 128)])
ladder = torch.cat((powers, -powers)).expand(3, -1)
check(ladder, [(1, 7, 1, 0), (1, 270, 1, 0), (1, 400, 1, 0)], ladder.shape[1])
"""

ODD_VALUES = """
settings = [(1, 5, 0.9, 0.1), (1, 0, 0.9, 0), (1, 2, 1, 0), (1, 0, 0, 0), (1, 0, 1, 0.5)]
settings.append((0, 2, 0, 0))
top = torch.randn(50)
for value in (torch.nan, INF, -INF):
    logits = top.repeat(6, 1)
    logits[:, [7, 9]] = value
    out = truncate(logits, *tensors(settings), 50)
    held = out[:5, [7, 9]]
    if value != value:
        assert held.isnan().all()
    elif value > 0:
        assert (held[:, 0] == INF).all() and (out[:5] > -INF).sum(-1).tolist() == [2, 2, 2, 1, 2]
    else:
        assert (held == -INF).all() and (out > -INF).any(-1).all()
    assert torch.equal(out[5].nan_to_num(1), logits[5].nan_to_num(1)), "greedy"
    for whole in (value, -INF):
        truncate(torch.full((6, 50), whole), *tensors(settings), 50)
# A row alone equals the row among others.
module._BLOCK = 128
rows = torch.randn(4, 700) * 3
settings = [(0.7, 0, 0.95, 0), (1, 20, 0.5, 0.01), (0, 0, 1, 0), (2, 0, 0.8, 0)]
together = truncate(rows, *tensors(settings), 700)
for row in range(4):
    alone = truncate(rows[row : row + 1], *tensors(settings[row : row + 1]), 700)
    assert torch.equal(alone[0], together[row])
"""


@pytest.mark.parametrize("program", [EVERY_SETTING, TIES, ODD_VALUES])
def test_filters_equal_the_sort(interpreted, program):
    interpreted(SETUP + program)
