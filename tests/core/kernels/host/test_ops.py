"""The CPU's own kernels against plain torch and float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ferrule.kernels.host import ops
from ferrule.kernels.host.library import host_library
from ferrule.layers.rope import Rotation, rotate

pytestmark = pytest.mark.skipif(host_library() is None, reason="no compiler, or another CPU")


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


@pytest.mark.parametrize("shape", [(1, 576), (7, 64), (2, 3, 8)])
def test_rms_norm_is_the_formula(shape):
    x, residual, weight = normal(*shape), normal(*shape) * 3, normal(shape[-1])
    expected = F.rms_norm(x.double(), x.shape[-1:], weight.double(), 1e-5)
    assert torch.allclose(ops.rms_norm(x, weight, 1e-5).double(), expected, rtol=0.012)
    found, summed = ops.add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(summed, x + residual)
    assert torch.equal(found, ops.rms_norm(summed, weight, 1e-5))


def test_norms_take_rows_that_lie_apart():
    wide, weight = normal(5, 128), normal(64)
    assert torch.equal(
        ops.rms_norm(wide[:, 64:], weight, 1e-5),
        ops.rms_norm(wide[:, 64:].contiguous(), weight, 1e-5),
    )


@pytest.mark.parametrize("shape", [(1, 96), (5, 22), (2, 3, 16)])
def test_silu_mul_is_torchs(shape):
    x = normal(*shape) * 10
    gate, up = x.chunk(2, dim=-1)
    assert torch.allclose(ops.silu_mul(x), F.silu(gate) * up, rtol=0.01)


def test_gates_far_below_zero_are_zero():
    for width in (2, 8):  # one by one, and as a vector
        x = torch.full((1, 2 * width), 2.0).bfloat16()
        x[0, :2] = torch.tensor([-1e4, float("nan")])
        y = ops.silu_mul(x)
        assert y[0, 0].abs() < 1e-30
        assert y[0, 1].isnan()


def paged(length, kv_heads, dim, block_size=4):
    """A cache with one sequence in scattered blocks: keys, values, table, plain keys and values."""
    blocks = -(-length // block_size)
    table = torch.randperm(blocks + 3, generator=torch.Generator().manual_seed(0))[:blocks]
    shape = (blocks + 3, block_size, kv_heads, dim)
    keys = torch.full(shape, float("nan")).bfloat16()
    values = keys.clone()
    plain = normal(length, kv_heads, dim), normal(length, kv_heads, dim + 0)
    for token in range(length):
        at = int(table[token // block_size]), token % block_size
        keys[at], values[at] = plain[0][token], plain[1][token]
    return keys, values, table, *plain


@pytest.mark.parametrize("window", [None, 5, 100])
@pytest.mark.parametrize("rotary", [16, 8])
@pytest.mark.parametrize("length", [1, 9, 33])
def test_decode_writes_rotates_and_attends(length, rotary, window):
    heads, kv_heads, dim = 6, 2, 16
    keys, values, table, plain_k, plain_v = paged(length, kv_heads, dim)
    qkv = normal(1, heads + 2 * kv_heads, dim)
    q, k, v = qkv.split((heads, kv_heads, kv_heads), dim=1)
    angles = torch.rand(1, 1, rotary // 2) * 6
    cos, sin = (
        torch.cat(pair, dim=-1).bfloat16()
        for pair in ((angles.cos(), angles.cos()), (-angles.sin(), angles.sin()))
    )
    at = int(table[(length - 1) // 4]) * 4 + (length - 1) % 4
    ops.write_cache(k, v, cos, sin, torch.tensor([at]), keys, values)
    rotation = Rotation(cos, sin)
    plain_k[-1], plain_v[-1] = rotate(k, rotation)[0], v[0]
    assert torch.allclose(keys.view(-1, kv_heads, dim)[at], plain_k[-1], rtol=0.01, atol=0.01)
    found = ops.attend_decode(
        q,
        cos,
        sin,
        torch.tensor([length - 1]),
        table[None],
        keys,
        values,
        scale=0.3,
        window=window,
    )
    seen = slice(max(0, length - (window or length)), length)
    k64, v64 = (each[seen].double().transpose(0, 1)[None] for each in (plain_k, plain_v))
    expected = F.scaled_dot_product_attention(
        rotate(q, rotation).double().transpose(0, 1)[None], k64, v64, scale=0.3, enable_gqa=True
    )
    assert torch.allclose(found.double(), expected[0].transpose(0, 1), rtol=0.02, atol=0.02)


def test_rows_of_a_batch_see_their_own_tokens():
    keys, values, table, *_ = paged(20, 1, 8)
    q, ones = normal(2, 3, 8), torch.ones(2, 1, 8).bfloat16()
    tables, positions = torch.stack([table, table]), torch.tensor([3, 19])
    arguments = (keys, values)
    both = ops.attend_decode(
        q, ones, ones * 0, positions, tables, *arguments, scale=1.0, window=None
    )
    for row in range(2):
        one = slice(row, row + 1)
        alone = ops.attend_decode(
            q[one],
            ones[one],
            ones[one] * 0,
            positions[one],
            tables[one],
            *arguments,
            scale=1.0,
            window=None,
        )
        assert torch.equal(both[one], alone)


def test_only_bfloat16_on_a_cpu_goes_there():
    assert ops.runs_host_kernels(normal(1, 8))
    assert not ops.runs_host_kernels(normal(1, 8).float())
    assert not ops.runs_host_kernels(normal(1, 8).to("meta"))
