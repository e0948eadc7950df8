"""Which layers the kernels compute, and a layer's attention in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from ferrule.layers.attention import AttentionSpec
from ferrule.runtime import kernel_attention
from ferrule.runtime.kernel_attention import fits_kernels

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def spec(num_heads, num_kv_heads):
    return AttentionSpec(
        num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=64, window=None, scale=0.1
    )


@pytest.fixture(autouse=True)
def triton(monkeypatch):
    monkeypatch.setattr(kernel_attention, "has_triton", lambda: True)


def test_kernels_are_for_gpus():
    assert not fits_kernels([spec(4, 2)], CPU)
    assert fits_kernels([spec(4, 2)], GPU)


def test_without_triton_there_are_none(monkeypatch):
    monkeypatch.setattr(kernel_attention, "has_triton", lambda: False)
    assert not fits_kernels([spec(4, 2)], GPU)


def test_a_layer_whose_groups_are_larger_than_a_tile_is_in_the_way_of_all():
    assert fits_kernels([spec(32, 2), spec(4, 4)], GPU)
    assert not fits_kernels([spec(4, 2), spec(34, 2)], GPU)


def test_the_largest_group_is_that_of_the_decode_kernel():
    """Written twice, for Triton may be missing where this module is imported."""
    pytest.importorskip("triton", reason="triton exists for Linux only")
    from ferrule.kernels import paged_decode

    assert paged_decode._ROWS.value == kernel_attention.MAX_GROUP


PROGRAM = """
import torch
from ferrule.kernels import paged_decode
from ferrule.layers.attention import AttentionSpec
from ferrule.layers.rope import Rotation
from ferrule.runtime.kernel_attention import Rows, attends
from ferrule.runtime.kv_cache import KVCache

paged_decode._MAX_SPLITS = 2
torch.manual_seed(0)
BLOCK, SCRAP, CPU = 4, 11, torch.device("cpu")
TABLES = torch.tensor([[7, 2, 9], [1, 4, 0], [1, 5, 3], [SCRAP] * 3], dtype=torch.int32)

def place(slot, position):
    return TABLES[slot, position // BLOCK].item() * BLOCK + position % BLOCK

def rotated(x, angle):
    # Channels i and i + 4 of the first eight are one complex number, which is turned.
    turned = torch.complex(x[..., :4].double(), x[..., 4:8].double())
    turned = turned * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat((turned.real, turned.imag, x[..., 8:].double()), dim=-1)

def check(singles, tiles, places, window, prior, num_padding=0):
    # singles: how many rows are single tokens; num_padding more are none, but looked at as such.
    # places: slot and position of each row, None where it pads. prior: what the cache holds.
    spec = AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=16, window=window, scale=0.3)
    cache = KVCache([spec], num_blocks=10, block_size=BLOCK, dtype=torch.float32, device=CPU)
    keys, values = (x.view(-1, 2, 16) for x in (cache.layers[0].keys, cache.layers[0].values))
    for slot, count in prior.items():
        at = [place(slot, position) for position in range(count)]
        keys[at], values[at] = torch.randn(2, count, 2, 16)
    q, k, v = torch.randn(len(places), 8, 16).split((4, 2, 2), dim=1)
    angle = torch.rand(len(places), 4, dtype=torch.float64) * 6.28
    cos, sin = angle.cos().float()[:, None], angle.sin().float()[:, None]
    rotation = Rotation(torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1))
    exact_q, exact_k = rotated(q, angle), rotated(k, angle)
    rows = [SCRAP * BLOCK if p is None else place(*p) for p in places]
    exact_keys, exact_values = keys.double(), values.double()
    for row, p in enumerate(places):
        if p is not None:
            exact_keys[rows[row]], exact_values[rows[row]] = exact_k[row], v[row].double()
    own = [*places[:singles], *[None] * num_padding]
    (attend,) = attends([spec], cache, Rows(
        cache_rows=torch.tensor(rows),
        tables=TABLES[[3 if p is None else p[0] for p in own]],
        lengths=torch.tensor([0 if p is None else p[1] + 1 for p in own]),
        slot_tables=TABLES,
        tiles=torch.tensor(tiles) if tiles else None,
        query_tile=16,
    ))
    out = attend(q, k, v, rotation)
    for row, p in enumerate(places):
        if p is None:
            continue
        slot, position = p
        first = 0 if window is None else max(0, position + 1 - window)
        at = [place(slot, i) for i in range(first, position + 1)]
        seen_keys, seen_values = (x[at].repeat_interleave(2, 1) for x in (exact_keys, exact_values))
        scores = torch.einsum("hd,khd->hk", exact_q[row], seen_keys) * 0.3
        exact = torch.einsum("hk,khd->hd", scores.softmax(-1), seen_values)
        assert torch.allclose(out[row].double(), exact, atol=1e-5), (row, p)
        assert torch.allclose(keys[rows[row]].double(), exact_k[row], atol=1e-6), (row, p)
        assert torch.equal(values[rows[row]], v[row]), (row, p)
"""

SINGLES_AND_PROMPTS = """
for window in (None, 3):
    # A step of pure decode, one row of which pads.
    check(3, None, [(0, 9), (1, 5), None], window, {0: 9, 1: 5})
    # A prompt alone, and one behind a single token.
    check(0, [(1, 0, 3, 5)], [(1, 5), (1, 6), (1, 7)], window, {1: 5})
    check(1, [(1, 1, 3, 0)], [(0, 9), (1, 0), (1, 1), (1, 2)], window, {0: 9})
    # Padded to a shape in which the prompt's rows begin among the single ones.
    step = [(0, 9), (1, 0), (1, 1), (1, 2), None, None]
    check(1, [(1, 1, 3, 0), (0, 0, 0, 0)], step, window, {0: 9}, num_padding=2)
"""

AS_MANY_SINGLES_AS_ROWS = """
# As in Shape(64, 64, 4), which is that of 9 single tokens and a prompt of 20.
for window in (None, 3):
    step = [(0, 9), (1, 0), (1, 1), (1, 2)]
    check(1, [(1, 1, 3, 0), (0, 0, 0, 0)], step, window, {0: 9}, num_padding=3)
"""

TOKENS_OF_THE_SAME_STEP = """
# Slot 1 and slot 2 share block 1, whose last token runs in the same step as what comes behind it.
check(2, None, [(2, 4), (1, 3)], None, {1: 3})
"""


@pytest.mark.parametrize(
    "program",
    [SINGLES_AND_PROMPTS, AS_MANY_SINGLES_AS_ROWS, TOKENS_OF_THE_SAME_STEP],
    ids=["singles and prompts", "as many singles as rows", "tokens of the same step"],
)
def test_a_layer_writes_all_tokens_of_a_step_and_then_attends(interpreted, program):
    interpreted(PROGRAM + program)
