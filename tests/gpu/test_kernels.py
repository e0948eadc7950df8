"""Every kernel of a step on the device, on random input, against its definition in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

pytestmark = pytest.mark.gpu

TOLERANCE = {torch.bfloat16: 6e-3, torch.float16: 8e-4}


def error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


def random(*shape, dtype=torch.bfloat16):
    return torch.randn(*shape, device="cuda").to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("rows", [1, 3, 16, 17, 64, 65])
@pytest.mark.parametrize(
    "shape", [(6144, 4096), (4096, 14336), (20000, 512), (1030, 520), (72, 40)], ids=str
)
def test_products_of_any_number_of_rows(shape, rows, dtype):
    from ferrule.kernels.product import gated_product, product

    x, weight = random(rows, shape[1], dtype=dtype), random(*shape, dtype=dtype) * 0.02
    bias, hidden = random(shape[0], dtype=dtype), random(rows, shape[0], dtype=dtype)
    exact = x.double() @ weight.double().T
    assert error(product(x, weight), exact) < TOLERANCE[dtype]
    assert error(product(x, weight, bias), exact + bias.double()) < TOLERANCE[dtype]
    added = product(x, weight, None, hidden.clone())
    assert error(added, exact + hidden.double()) < TOLERANCE[dtype]
    gate, up = (exact + bias.double()).chunk(2, dim=-1)
    assert error(gated_product(x, weight, bias), F.silu(gate) * up) < 2 * TOLERANCE[dtype]


def test_overlapping_kernels_give_the_same_bits():
    from ferrule.kernels.norm import add_rms_norm
    from ferrule.kernels.overlap import overlapping
    from ferrule.kernels.product import gated_product, product

    weights = [(random(8192, 4096) * 0.02, random(4096, 4096) * 0.02) for _ in range(30)]
    scale = 1 + 0.1 * random(4096)

    def chain(x):
        hidden = x
        for up, down in weights:
            normed, hidden = add_rms_norm(x, hidden, scale, 1e-5)
            x = product(gated_product(normed, up), down)
        return hidden

    for rows in (1, 2, 8):
        x = random(rows, 4096)
        plain = chain(x)
        for _ in range(10):
            with overlapping(True):
                assert torch.equal(chain(x), plain), rows


@pytest.mark.parametrize("size", [576, 4096, 5000])
def test_norms(size):
    from ferrule.kernels.norm import add_rms_norm, rms_norm

    x, residual, weight = random(37, size), random(37, size), random(size)
    exact = F.rms_norm(x.double(), (size,), weight.double(), 1e-5)
    assert error(rms_norm(x, weight, 1e-5), exact) < 6e-3
    normed, summed = add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(summed, x + residual)
    exact = F.rms_norm(summed.double(), (size,), weight.double(), 1e-5)
    assert error(normed, exact) < 6e-3


@pytest.mark.parametrize("rotary", [128, 64, None])
def test_rotated_queries_and_what_the_cache_holds(rotary):
    from ferrule.kernels.rotate_write import rotate_write
    from ferrule.layers.rope import Rotation, rotate

    qkv = random(50, 40 + 2 * 8, 128)
    rotation = None
    if rotary is not None:
        rotation = Rotation(random(50, 1, rotary), random(50, 1, rotary))
    keys = torch.zeros(9, 64, 8, 128, device="cuda", dtype=torch.bfloat16)
    values = torch.zeros_like(keys)
    at = torch.randperm(9 * 64, device="cuda")[:50]
    q = rotate_write(qkv[:, :40], qkv[:, 40:48], qkv[:, 48:], rotation, at, keys, values)
    wide = qkv.double()[:, :48]
    if rotation is not None:
        wide = rotate(wide, Rotation(*(x.double() for x in rotation)))
    assert error(q, wide[:, :40]) < 4e-3
    assert error(keys.view(-1, 8, 128)[at], wide[:, 40:]) < 4e-3
    assert torch.equal(values.view(-1, 8, 128)[at], qkv[:, 48:])
    assert keys.view(-1, 8, 128).any(-1).any(-1).sum() == 50


CHUNKS = [(0, 37), (64, 500), (100, 3), (1300, 700), (0, 128)]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("query_tile", [64, 128])
@pytest.mark.parametrize(
    "shape",
    [(32, 8, 128, 64, None), (28, 4, 128, 64, 300), (9, 3, 64, 16, None), (4, 4, 80, 64, 50)],
    ids=str,
)
def test_prompt_chunks_attend_to_all_before_them(shape, query_tile, dtype):
    from ferrule.kernels.paged_prefill import paged_prefill

    heads, kv_heads, dim, page, window = shape
    num_blocks = -(-2048 // page)
    keys = random(5 * num_blocks, page, kv_heads, dim, dtype=dtype)
    values = torch.randn_like(keys)
    tables = torch.randperm(5 * num_blocks, device="cuda").view(5, num_blocks).int()
    tiles, row = [], 0
    for slot, (start, count) in enumerate(CHUNKS):
        # What lies behind a sequence must not matter; values are cleared where a block begins.
        end = start + count
        block = tables[slot, end // page].long()
        keys[block, end % page :] = torch.nan
        values[block, end % page :] = 1000
        for first in range(0, count, query_tile):
            tiles.append((slot, row + first, min(query_tile, count - first), start + first))
        row += count
    wide = random(row, heads + 2, dim, dtype=dtype)
    q = wide[:, :heads]
    out = torch.full((row, heads, dim), torch.nan, device="cuda", dtype=dtype)
    tiles.append((0, 0, 0, 0))  # pads
    tiles = torch.tensor(tiles, device="cuda", dtype=torch.int64)
    paged_prefill(
        q, keys, values, out, tables, tiles, scale=0.09, window=window, query_tile=query_tile
    )
    row = 0
    for slot, (start, count) in enumerate(CHUNKS):
        places = torch.arange(start + count, device="cuda")
        queries = places[start:, None]
        hidden = places > queries
        if window is not None:
            hidden |= places <= queries - window
        k, v = (
            x[tables[slot].long()].flatten(0, 1)[: start + count].double() for x in (keys, values)
        )
        k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q[row : row + count].double(), k) * 0.09
        exact = torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)
        assert error(out[row : row + count], exact) < TOLERANCE[dtype], slot
        row += count


def test_draws_are_those_of_the_host_whatever_is_beside_them():
    from ferrule.kernels.draw import draw
    from ferrule.runtime.random import gumbel

    logits = random(64, 128256, dtype=torch.float32) * 3
    temperature = torch.linspace(0, 2, 64, device="cuda").float()
    seeds = torch.arange(-32, 32, device="cuda")
    positions = torch.arange(64, device="cuda") * 31
    found = draw(logits, temperature, seeds, positions, 128000)
    known = logits.cpu()[:, :128000]
    noise = gumbel(seeds.cpu(), positions.cpu(), 128000)
    scaled = known / temperature.cpu().clamp(min=1e-9)[:, None] + noise
    expected = torch.where(temperature.cpu() > 0, scaled.argmax(-1), known.argmax(-1))
    assert (found.cpu() == expected).float().mean() > 0.98  # logarithms differ in the last bit
    for row in (0, 17, 63):
        one = slice(row, row + 1)
        alone = draw(logits[one], temperature[one], seeds[one], positions[one], 128000)
        assert alone.item() == found[row].item()


def test_filters_keep_what_a_sort_keeps():
    from ferrule.kernels.truncate import truncate
    from ferrule.runtime.sampler import _filter
    from ferrule.runtime.sampling_state import SamplingState

    rows = 32
    logits = random(rows, 128256, dtype=torch.float32) * 4
    state = SamplingState(rows, vocab_size=128256, device=torch.device("cuda"))
    state.temperature.copy_(torch.linspace(0.3, 1.5, rows))
    state.top_p.copy_(torch.tensor([1.0, 0.95, 0.5, 0.05]).repeat(rows // 4))
    state.top_k.copy_(torch.tensor([0, 1, 50, 5000]).repeat_interleave(rows // 4))
    state.min_p.copy_(torch.tensor([0.0, 0.1]).repeat_interleave(rows // 2))
    found = truncate(
        logits, state.temperature, state.top_k, state.top_p, state.min_p, logits.shape[1]
    )
    index = torch.arange(rows, device="cuda")
    expected = _filter(logits / state.temperature[:, None], index, state)
    differs = (found.isinf() != expected.isinf()).sum(-1)
    # Sums of probabilities round differently: a token at the very edge may fall to either side.
    assert differs.max() <= 2, differs
    kept = ~(found.isinf() | expected.isinf())
    torch.testing.assert_close(found[kept], expected[kept], rtol=1e-5, atol=1e-5)


def test_rotations_are_those_of_the_formula():
    from ferrule import RopeConfig
    from ferrule.kernels.rotation import rotation_of
    from ferrule.layers.rope import Rope

    rope = Rope(RopeConfig(theta=500000.0, rotary_dim=128), 131072)
    positions = torch.tensor([0, 1, 77, 8191, 131071])
    found = rotation_of(positions.cuda(), rope.inv_freq.cuda(), 1.25, torch.float32)
    angles = (positions[:, None].float() * rope.inv_freq).double()
    cos, sin = angles.cos() * 1.25, angles.sin() * 1.25
    for half, sign in ((slice(64), -1), (slice(64, None), 1)):
        torch.testing.assert_close(found[0][:, 0, half].cpu().double(), cos, rtol=0, atol=1e-6)
        torch.testing.assert_close(
            found[1][:, 0, half].cpu().double(), sign * sin, rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("rows", [8, 64, 256])
def test_a_shared_prefix_read_once_gives_what_each_row_alone_gives(rows):
    from ferrule.kernels.paged_decode import paged_decode
    from ferrule.kernels.shared import SharedPrefix

    shared = 1920
    lengths = shared + torch.randint(1, 200, (rows,), device="cuda")
    tables = torch.randperm(rows * 34, device="cuda").view(rows, 34).int()
    shares = torch.arange(rows, device="cuda") % 5 != 3
    tables[shares, : shared // 64] = tables[0, : shared // 64]
    keys = random(rows * 34, 64, 8, 128)
    values = torch.randn_like(keys)
    q = random(rows, 32, 128)
    prefix = SharedPrefix(
        starts=torch.where(shares, shared, 0),
        table=tables[0],
        length=torch.tensor([shared], device="cuda"),
    )
    alone = paged_decode(q, keys, values, tables, lengths, scale=0.09, window=None)
    found = paged_decode(q, keys, values, tables, lengths, scale=0.09, window=None, shared=prefix)
    assert error(found, alone.double()) < 4e-3


def test_what_a_decode_step_reads_of_its_slots():
    from ferrule.kernels.begin_step import begin_step

    last, lengths = (torch.randint(0, 900, (257,), device="cuda") for _ in range(2))
    tables = torch.randint(0, 5000, (257, 20), device="cuda").int()
    slots = torch.randperm(257, device="cuda")[:100]
    tokens, positions, ends, places = begin_step(slots, last, lengths, tables, 64)
    assert torch.equal(tokens, last[slots])
    assert torch.equal(positions, lengths[slots])
    assert torch.equal(ends, lengths[slots] + 1)
    blocks = tables[slots, positions // 64].long()
    assert torch.equal(places, blocks * 64 + positions % 64)


@pytest.mark.parametrize("rows", [1, 8, 64])
@pytest.mark.parametrize("window", [None, 100])
def test_a_decode_step_that_writes_its_tokens_itself(rows, window):
    from ferrule.kernels.overlap import overlapping
    from ferrule.kernels.paged_decode import NewTokens, paged_decode
    from ferrule.kernels.rotate_write import rotate_write
    from ferrule.layers.rope import Rotation

    lengths = torch.randint(1, 1500, (rows,), device="cuda")
    tables = torch.randperm(rows * 24, device="cuda").view(rows, 24).int()
    places = torch.arange(rows, device="cuda"), (lengths - 1) // 64
    at = tables[places].long() * 64 + (lengths - 1) % 64
    keys = random(rows * 24, 64, 8, 128)
    caches = [(keys.clone(), keys.flip(0)) for _ in range(3)]
    qkv = random(rows, 48, 128)
    q, k, v = qkv.split((32, 8, 8), dim=1)
    rotation = Rotation(random(rows, 1, 128), random(rows, 1, 128))
    rotated = rotate_write(q, k, v, rotation, at, *caches[0])
    form = {"scale": 0.09, "window": window}
    expected = paged_decode(rotated, *caches[0], tables, lengths, **form)
    new = NewTokens(keys=k, values=v, rotation=rotation, cache_rows=at)
    found = paged_decode(q, *caches[1], tables, lengths, new=new, **form)
    with overlapping(True):
        again = paged_decode(q, *caches[2], tables, lengths, new=new, **form)
    assert torch.equal(found, again)
    assert error(found, expected.double()) < 2e-3
    for mine, theirs in zip(caches[1], caches[0], strict=True):
        assert torch.equal(mine, theirs)
