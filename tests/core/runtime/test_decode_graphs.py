"""Which graph a batch takes, and steps without one; tests/gpu/test_decode_graphs.py has more."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ferrule.layers.attention import AttentionSpec
from ferrule.layers.lora import LoraMode
from ferrule.runtime import packet
from ferrule.runtime.decode_graphs import FIRST_SIZES, DecodeGraphs, GraphKey, graph_size
from ferrule.runtime.device_sampling import Needs
from ferrule.runtime.device_slots import DeviceSlots
from ferrule.runtime.kv_cache import KVCache
from ferrule.runtime.shared_blocks import SharedBlocks

CPU = torch.device("cpu")
SPEC = AttentionSpec(num_heads=1, num_kv_heads=1, head_dim=2, window=None, scale=1.0)


@pytest.mark.parametrize(
    ("num_rows", "size"),
    [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (16, 16), (17, 24), (33, 40), (64, 64), (65, 96)],
)
def test_a_batch_takes_the_next_larger_graph(num_rows, size):
    assert graph_size(num_rows, 256) == size


def test_no_graph_is_larger_than_the_batch_may_be():
    assert graph_size(9, 10) == 10
    assert graph_size(250, 250) == 250


def test_there_are_few_graphs_and_the_first_ones_are_among_them():
    sizes = {graph_size(num_rows, 256) for num_rows in range(1, 257)}
    assert len(sizes) <= 17
    assert set(FIRST_SIZES) <= sizes


class Model:
    """Remembers what a step looks at."""

    def __init__(self):
        self.rows = None

    def attention_specs(self):
        return [SPEC]

    def __call__(self, tokens, positions, attends):
        (attend,) = attends
        self.rows = attend.rows
        return torch.stack((tokens, positions), dim=1)

    def logits(self, hidden):
        return hidden.float()


class Sampling:
    """The next token is the one that ran, and 100."""

    vocab_size = num_known_tokens = 1

    def prepare(self, needs):
        self.prepared = needs

    def sample(self, logits, slots, positions, needs, known=None):
        assert known is None, "no adapter adds tokens"
        assert needs == self.prepared
        return logits[:, 0].long() + 100


class OnHost(DeviceSlots):
    """With plain torch in the kernel's place."""

    def begin(self, slots):
        positions = self.lengths[slots]
        blocks = self.tables[slots, positions // self.block_size].long()
        rows = blocks * self.block_size + positions % self.block_size
        return self.last_tokens[slots], positions, positions + 1, rows


@pytest.fixture
def parts():
    cache = KVCache([SPEC], num_blocks=50, block_size=4, dtype=torch.float32, device=CPU)
    slots = OnHost(6, max_length=12, cache=cache, device=CPU)
    slots.place(torch.arange(6), torch.arange(6) + 2, torch.arange(6) * 10)
    for slot in range(6):
        slots.grow(slot, 0, np.array([slot, slot + 10, slot + 20]))
    slots.flush()
    model = Model()
    graphs = DecodeGraphs(model, cache, slots, Sampling(), pool=None)
    return SimpleNamespace(model=model, slots=slots, graphs=graphs)


def run(parts, slots, shared=None):
    return parts.graphs.run(slots, Needs(), shared).tokens[: len(slots)].tolist()


def test_steps_go_on_from_what_the_device_holds(parts):
    assert run(parts, [4, 1, 0]) == [140, 110, 100]
    assert run(parts, [4, 1, 0]) == [240, 210, 200]
    assert parts.slots.lengths.tolist() == [4, 5, 4, 5, 8, 7, 0], "2 more; what pads has none"
    assert run(parts, [1, 2]) == [310, 120]
    assert run(parts, [4, 1, 0]) == [340, 410, 300], "a batch of before is not taken for the last"
    assert parts.model.rows.lengths.tolist() == [9, 7, 5, 1]
    assert parts.model.rows.cache_rows.tolist()[:3] == [24 * 4, 11 * 4 + 2, 10 * 4]
    assert parts.model.rows.tables[:3].tolist() == [[4, 14, 24], [1, 11, 21], [0, 10, 20]]


def test_the_host_sends_something_only_when_the_batch_has_changed(parts, monkeypatch):
    sent = []

    def counted(arrays, device):
        sent.append(arrays)
        return packet.send(arrays, device)

    monkeypatch.setattr("ferrule.runtime.decode_graphs.send", counted)
    parts.slots.lengths.zero_()
    shared = begins(5, 8, 0, 8, 8)
    for slots, given in (([3, 5, 4], None), ([3, 5, 4], shared), ([3, 5], None)):
        for _ in range(3):
            run(parts, slots, given)
    assert len(sent) == 3


def test_rows_that_pad_are_the_padding_slots(parts):
    run(parts, [0, 1, 2])
    scrap = 51
    assert parts.model.rows.tables[3].tolist() == [scrap] * 3
    assert parts.model.rows.cache_rows[3] == scrap * 4
    assert parts.model.rows.shared is None


def share(parts):
    shared = parts.model.rows.shared
    table, (length,) = shared.table.tolist(), shared.length.tolist()
    return shared.starts.tolist(), table[: length // 4], length


def begins(slot, num_tokens, *starts):
    return SharedBlocks(slot=slot, num_tokens=num_tokens, starts=np.array(starts))


def test_a_shared_beginning_is_that_of_the_step(parts):
    run(parts, [3, 5, 4], begins(5, 8, 0, 8, 8))
    assert share(parts) == ([0, 8, 8, 0], [5, 15], 8)
    run(parts, [3, 5, 4])
    assert parts.model.rows.shared is None
    run(parts, [3, 5, 4], begins(3, 4, 4, 4, 0))
    assert share(parts) == ([4, 4, 0, 0], [3], 4)


def test_the_same_slots_may_share_something_else(parts):
    """A slot is released and taken again between two steps of the same slots."""
    run(parts, [3, 5, 4], begins(3, 8, 8, 8, 8))
    run(parts, [3, 5, 4], begins(5, 8, 0, 8, 8))
    assert share(parts) == ([0, 8, 8, 0], [5, 15], 8)


def test_sizes_to_begin_with_are_no_larger_than_the_batch_may_be(parts):
    assert parts.graphs.first_sizes() == [4, 2, 1]
    assert parts.graphs.keys == [], "none is made before it is asked for"


def test_what_is_missing_is_every_size_that_a_batch_takes(parts):
    keys = [GraphKey(size) for size in (1, 2, 4, 6)]
    assert parts.graphs.missing() == keys
    parts.graphs._graphs[keys[1]] = None
    assert parts.graphs.missing() == [keys[0], *keys[2:]]
    shared = [GraphKey(size, shares=True) for size in (2, 4, 6)]
    assert parts.graphs.missing(shares=True) == shared, "one sequence shares with nobody"


class Pool:
    """Records what it is asked to make; a replay gives what the step gave."""

    may = False

    def __init__(self):
        self.made = []

    def may_capture(self):
        return self.may

    def capture(self, step, *, is_known):
        self.made.append(is_known)
        result = step()
        return SimpleNamespace(replay=step), result


def test_a_step_without_a_graph_runs_as_it_is_until_one_may_be_made(parts):
    parts.graphs.pool = pool = Pool()
    assert run(parts, [4, 1]) == [140, 110]
    assert pool.made == []
    assert parts.graphs.keys == []
    pool.may = True
    run(parts, [4, 1])
    run(parts, [4, 1])
    assert parts.graphs.keys == [GraphKey(2)]
    assert pool.made == [False], "once, and nothing of its kind has run in a warm-up"


def test_kernels_of_the_warm_up_are_not_run_before_more_graphs_are_made(parts):
    parts.graphs.pool = pool = Pool()
    parts.graphs.warm = frozenset({LoraMode.OFF})
    parts.graphs.capture(GraphKey(2))
    parts.graphs.capture(GraphKey(2, shares=True))
    assert pool.made == [True, False]
    parts.graphs.warm = frozenset({LoraMode.OFF, LoraMode.DELTAS})
    parts.graphs.drop_lora()
    assert parts.graphs.warm == {LoraMode.OFF}, "layers have more to do for adapters now"
