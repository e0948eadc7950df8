"""Reading and placing beside the steps, with adapters that are made and not read from files."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from ferrule.errors import CheckpointError, LoadError
from ferrule.layers import Linear
from ferrule.layers.lora import LoraMode, LoraRows, PoolSizes
from ferrule.lora import Adapter, AdapterReport, ModuleUpdate
from ferrule.plan import LoraInfo
from ferrule.quantization.formats import FORMATS
from ferrule.runtime.lora_slots import LoraSlots
from ferrule.runtime.lora_store import LoraStore

CPU = torch.device("cpu")


def adapter(location, content=None, vocab_size=10, module="p", rank=2):
    modules = {module: ModuleUpdate(a=torch.ones(rank, 4), b=torch.ones(3, rank), scale=0.5)}
    report = AdapterReport(
        location=location,
        container="peft",
        base="",
        trained_on="",
        rank=rank,
        num_modules=1,
        num_tensors=2,
        num_bytes=56,
        touched=[],
        added_tokens={},
        vocab_size=vocab_size,
        unused={},
        notes=[],
    )
    return Adapter(
        name=location,
        location=location,
        content=content or f"content of {location}",
        modules=modules,
        vocab_size=vocab_size,
        added_tokens={},
        files={},
        report=report,
    )


@pytest.fixture
def stored():
    """A store over one layer, with what it has read and a gate that reading waits for."""
    linear = Linear(4, 3)
    linear.weight_shapes("p")
    linear.allocate({"p.weight": FORMATS["F32"]}, dtype=torch.float32, device=CPU)
    linear.write("p.weight", torch.zeros(3, 16, dtype=torch.uint8), FORMATS["F32"])
    linear.finish()
    sizes = PoolSizes(num_slots=2, rank=2, dtype=torch.float32, device=CPU)
    slots = LoraSlots(torch.nn.ModuleDict({"p": linear}), sizes, max_batch_size=4)
    made, was_read, gate = {}, [], threading.Event()
    gate.set()

    def read(location):
        assert gate.wait(20)
        was_read.append(location)
        if location not in made:
            raise CheckpointError(f"{location} is nowhere")
        return made[location]

    store = LoraStore(slots, read, num_on_host=1, vocab_size=10)
    yield SimpleNamespace(
        store=store, linear=linear, slots=slots, made=made, was_read=was_read, gate=gate
    )
    gate.set()
    store.close()


def wait_for(news):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if found := news():
            return found
        time.sleep(0.002)
    raise AssertionError("no news")


def load(stored, made):
    stored.made[made.location] = made
    stored.store.load("t", made.location)
    [(ticket, result)] = wait_for(stored.store.loaded)
    assert ticket == "t"
    return result


def test_an_adapter_is_read_placed_and_computed(stored):
    info = load(stored, adapter("a"))
    assert isinstance(info, LoraInfo)
    assert (info.content, info.rank, info.location) == ("content of a", 2, "a")
    assert stored.store.num_host_bytes() == 4 * (2 * 4 + 3 * 2)
    assert stored.store.num_device_bytes() == stored.slots.num_bytes > 0
    stored.store.place(info.content, 1)
    assert wait_for(stored.store.placed) == [(1, "")]
    rows = LoraRows(groups=[(1, slice(1, 2))])
    with stored.slots.state.using(LoraMode.DELTAS, {2: rows}):
        # Ones through two ranks of ones, times the scale.
        assert stored.linear(torch.ones(2, 4)).tolist() == [[0.0] * 3, [4.0] * 3]


def test_reading_holds_nobody_up(stored):
    info = load(stored, adapter("a"))
    stored.gate.clear()
    stored.store.load("slow", "b")
    stored.store.place(info.content, 0)
    assert wait_for(stored.store.placed) == [(0, "")]
    assert stored.store.loaded() == []
    began = time.monotonic()
    stored.store.wait(0.01)
    assert time.monotonic() - began < 5
    stored.gate.set()
    assert wait_for(stored.store.loaded)[0][0] == "slow"


def test_more_than_the_host_keeps_are_read_again(stored):
    first, second = load(stored, adapter("a")), load(stored, adapter("b"))
    assert stored.store.num_host_bytes() == first.num_bytes
    stored.was_read.clear()
    for slot, info in enumerate((first, second)):
        stored.store.place(info.content, slot)
    placed = []
    while len(placed) < 2:
        placed += wait_for(stored.store.placed)
    assert placed == [(0, ""), (1, "")]
    assert "a" in stored.was_read


def test_one_that_has_changed_on_disk_is_not_taken_for_the_old(stored):
    first = load(stored, adapter("a"))
    load(stored, adapter("b"))
    stored.made["a"] = adapter("a", content="other")
    stored.store.place(first.content, 0)
    [(slot, error)] = wait_for(stored.store.placed)
    assert (slot, "files have changed" in error) == (0, True)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (adapter("a", rank=3), "rank 3, and there is room for rank 2"),
        (adapter("a", module="other"), "does not compute through layers.Linear"),
        (adapter("a", vocab_size=13), "adds 3 rows to the model's 10 tokens"),
    ],
)
def test_what_cannot_be_applied_is_refused_in_words(stored, made, words):
    refused = load(stored, made)
    assert isinstance(refused, LoadError)
    assert words in refused.message
    assert refused.hint
    assert stored.store.num_host_bytes() == 0


def test_whatever_goes_wrong_becomes_an_answer(stored):
    stored.store.load("t", "nowhere")
    [(_, error)] = wait_for(stored.store.loaded)
    assert isinstance(error, CheckpointError)
    stored.made["a"] = None
    stored.store.load("t", "a")
    [(_, error)] = wait_for(stored.store.loaded)
    assert isinstance(error, LoadError)
    assert "a cannot be read: AttributeError" in error.message
    stored.store.place("unknown", 0)
    [(slot, told)] = wait_for(stored.store.placed)
    assert (slot, "KeyError" in told) == (0, True)


def test_what_is_forgotten_takes_no_memory(stored):
    info = load(stored, adapter("a"))
    stored.store.forget(info.content)
    assert stored.store.num_host_bytes() == 0
