"""The attention operator: what it is given reaches the kernels, and it says the truth of itself."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from ferrule.kernels.shared import SharedPrefix
from ferrule.layers import AttentionSpec, Rotation
from ferrule.runtime.attend_op import OpaqueAttend
from ferrule.runtime.kernel_attention import LayerAttend, Rows
from ferrule.runtime.kv_cache import KVCache

ROWS, BLOCKS, BLOCK, HEADS, KV_HEADS, DIM = 5, 3, 4, 6, 2, 8


def int_tensor(*shape, dtype=torch.int64):
    return torch.randint(0, 7, shape, dtype=dtype)


@pytest.fixture
def attend():
    torch.manual_seed(0)
    spec = AttentionSpec(num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM, window=9, scale=0.3)
    sizes = {"num_blocks": 7, "block_size": BLOCK, "dtype": torch.float32}
    cache = KVCache([spec, spec], **sizes, device=torch.device("cpu")).layers[1]
    rows = Rows(
        cache_rows=int_tensor(ROWS),
        tables=int_tensor(3, BLOCKS, dtype=torch.int32),
        lengths=int_tensor(3),
        slot_tables=int_tensor(9, BLOCKS, dtype=torch.int32),
        tiles=int_tensor(2, 4),
        query_tile=64,
        shared=SharedPrefix(
            starts=int_tensor(3), table=int_tensor(BLOCKS, dtype=torch.int32), length=int_tensor(1)
        ),
        are_apart=True,
    )
    return LayerAttend(spec=spec, cache=cache, rows=rows)


@pytest.fixture
def qkv():
    torch.manual_seed(1)
    wide = torch.randn(ROWS, HEADS + 2 * KV_HEADS, DIM)
    return wide.split((HEADS, KV_HEADS, KV_HEADS), dim=1)


@pytest.fixture
def called(monkeypatch):
    """What the operator calls; the list grows by each call."""
    found = []

    def record(self, q, k, v, rotation=None):
        found.append((self, q, k, v, rotation))
        self.cache.keys[0, 0] = k[0]
        self.cache.values[0, 0] = v[0]
        return q.clone(memory_format=torch.contiguous_format)

    monkeypatch.setattr(LayerAttend, "__call__", record)
    return found


def assert_same(one, other):
    """Of dataclasses of tensors and numbers."""
    assert type(one) is type(other)
    for field in fields(one):
        here, there = getattr(one, field.name), getattr(other, field.name)
        if isinstance(here, torch.Tensor):
            assert here.dtype is there.dtype
            assert torch.equal(here, there), field.name
        elif isinstance(here, SharedPrefix):
            assert_same(here, there)
        else:
            assert here == there, field.name


def rotation():
    return Rotation(torch.randn(ROWS, 1, DIM), torch.randn(ROWS, 1, DIM))


@pytest.mark.parametrize("turns", [rotation(), None], ids=["rotates", "rotated"])
def test_all_that_a_step_has_reaches_the_kernels(attend, qkv, called, turns):
    out = OpaqueAttend(attend)(*qkv, turns)
    ((inner, q, k, v, given),) = called
    assert_same(inner.rows, attend.rows)
    assert_same(inner.spec, attend.spec)
    assert inner.cache.keys.data_ptr() == attend.cache.keys.data_ptr()
    assert inner.cache.values.data_ptr() == attend.cache.values.data_ptr()
    for here, there in zip((q, k, v), qkv, strict=True):
        assert torch.equal(here, there)
        assert here.stride() == there.stride()
    assert given is None if turns is None else all(map(torch.equal, given, turns))
    assert torch.equal(out, qkv[0])
    assert torch.equal(attend.cache.keys[0, 0], qkv[1][0])


def test_the_example_has_everything_that_a_step_can_have(attend):
    for field in fields(Rows):
        assert getattr(attend.rows, field.name) is not field.default, field.name


@pytest.mark.parametrize(
    "lacks",
    [{"tiles": None}, {"shared": None}, {"tiles": None, "shared": None, "are_apart": False}],
    ids=str,
)
def test_what_a_step_lacks_is_lacking(attend, qkv, called, lacks):
    attend = replace(attend, rows=replace(attend.rows, **lacks))
    OpaqueAttend(attend)(*qkv)
    assert_same(called[0][0].rows, attend.rows)


@pytest.mark.parametrize("window", [None, 1, 4096])
def test_windows(attend, qkv, called, window):
    attend = replace(attend, spec=replace(attend.spec, window=window))
    OpaqueAttend(attend)(*qkv)
    assert called[0][0].spec.window == window


@pytest.mark.usefixtures("called")
@pytest.mark.filterwarnings("default")
def test_what_the_operator_says_of_itself_is_true(attend, qkv):
    """By torch's own check: what it writes, and the shape and strides of what it gives."""
    rows, shared = attend.rows, attend.rows.shared
    torch.library.opcheck(
        torch.ops.ferrule.attend,
        (
            *qkv,
            None,
            None,
            attend.cache.keys.clone(),
            attend.cache.values.clone(),
            rows.cache_rows,
            rows.slot_tables,
            rows.tables,
            rows.lengths,
            rows.tiles,
            shared.starts,
            shared.table,
            shared.length,
            0.3,
            9,
            64,
            2,
        ),
    )
