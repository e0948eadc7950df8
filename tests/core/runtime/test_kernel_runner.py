"""The runner of a GPU in Triton's interpreter, against the runner of a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ferrule.layers.attention import AttentionSpec
from ferrule.layers.lora import LoraMode
from ferrule.runtime import kernel_runner
from ferrule.runtime.decode_graphs import GraphKey
from ferrule.runtime.kernel_runner import KernelRunner
from ferrule.runtime.kv_cache import KVCache

pytest.importorskip("triton", reason="triton exists for Linux only")


def test_both_runners_give_the_same_tokens(interpreted):
    """Greedy and seeded, filtered and penalised, with prefixes, preemptions and descriptions."""
    interpreted(Path(__file__).with_name("kernel_runner_program.py"))


SPEC = AttentionSpec(num_heads=1, num_kv_heads=1, head_dim=2, window=None, scale=1.0)


class Model:
    def attention_specs(self):
        return [SPEC]


@pytest.fixture
def captured(monkeypatch):
    """``captured(num_slots)``: a runner and a list of what it captures, without a device."""

    def make(num_slots):
        cache = KVCache(
            [SPEC], num_blocks=2, block_size=4, dtype=torch.float32, device=torch.device("cpu")
        )
        runner = KernelRunner(
            Model(),
            cache,
            max_batch_size=num_slots,
            max_tokens=2048,
            max_length=16,
            vocab_size=10,
            num_known_tokens=10,
            device=torch.device("cpu"),
            captures=False,
        )
        keys = []
        for graphs in (runner.graphs, runner.mixed):

            def capture(key, graphs=graphs):
                keys.append(key)
                graphs._graphs[key] = None

            monkeypatch.setattr(graphs, "capture", capture)
            monkeypatch.setattr(graphs, "pool", (0, 0))
        return runner, keys

    monkeypatch.setattr(kernel_runner, "_has_room", lambda device: True)
    return make


def test_the_warm_up_captures_all_first_ones_the_largest_first(captured):
    runner, keys = captured(256)
    told = []
    sizes, shapes = runner.graphs.first_sizes(), runner.mixed.first_shapes()
    assert runner.graphs.warm == runner.mixed.warm == set()
    runner.warm_up(lambda done, total: told.append((done, total)))
    assert runner.graphs.warm == runner.mixed.warm == {LoraMode.OFF}
    assert set(keys) == {*map(GraphKey, sizes), *shapes}
    assert keys[0] == max(shapes, key=lambda shape: shape.num_rows)
    assert told == [(done, len(keys)) for done in range(1, len(keys) + 1)]


@pytest.mark.parametrize("count", [2, 3, 6])
def test_shares_of_the_warm_up_have_as_many_kernels_to_compile(captured, count):
    """Those for 1, 8, 16, 32 and 64 rows, and for small and large steps with prompts."""
    runner, keys = captured(256)
    shares = []
    for index in range(count):
        keys.clear()
        for job in runner.warm_up_jobs()[index::count]:
            job()
        prompts = {key.query_tile for key in keys if not isinstance(key, GraphKey)}
        sizes = {key.size for key in keys if isinstance(key, GraphKey)}
        shares.append(len(sizes & {1, 8, 16, 32, 64}) + len(prompts))
    assert min(shares) >= 7 // count


def test_idle_time_captures_one_graph_after_another_until_none_is_missing(captured):
    runner, keys = captured(8)
    runner.warm_up(lambda done, total: None)
    done = len(keys)
    more = [runner.use_idle_time()]
    assert len(keys) == done + 1
    while more[-1]:
        more.append(runner.use_idle_time())
    assert len(keys) == len(set(keys)) == done + len(more)
    for shares in (False, True):
        assert runner.graphs.missing(shares=shares) == []
        assert runner.mixed.missing(shares=shares) == []
    plain = [key for key in keys[done:] if not key.shares]
    assert plain == keys[done : done + len(plain)], "those come first"
    assert not runner.use_idle_time()
    assert len(keys) == done + len(more)


def test_idle_time_takes_no_memory_that_others_may_need(captured, monkeypatch):
    monkeypatch.setattr(kernel_runner, "_has_room", lambda device: False)
    runner, keys = captured(8)
    assert not runner.use_idle_time()
    assert keys == []
