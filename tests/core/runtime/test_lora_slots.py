from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ferrule.layers import Linear
from ferrule.layers.lora import LoraMode, LoraPart, PoolSizes
from ferrule.plan import Admission, SamplingParams
from ferrule.quantization.formats import FORMATS
from ferrule.runtime.lora_adapter import PreparedLora
from ferrule.runtime.lora_slots import LoraSlots, fill_chunks, grouped, num_chunks, widened

CPU = torch.device("cpu")
WANTED = np.array([2, -1, 2, 0, 2, 2, -1, 1])


def test_both_runners_give_the_same_tokens_with_adapters(interpreted):
    """Low-rank, scaled and whole weights, added tokens, descriptions, mixed with the base."""
    interpreted(Path(__file__).with_name("lora_runner_program.py"))


def test_rows_fall_into_groups_and_runs_are_slices():
    groups = dict(grouped(WANTED, CPU).groups)
    assert list(groups) == [0, 1, 2]
    assert groups[0] == slice(3, 4)
    assert groups[1] == slice(7, 8)
    assert groups[2].tolist() == [0, 2, 4, 5]


def test_every_row_is_in_one_chunk_of_its_adapter_or_of_none():
    slots, rows = np.full(6, -1), np.full((6, 3), -1)
    fill_chunks(WANTED, slots, rows)
    without = np.nonzero(WANTED < 0)[0].tolist()
    assert slots.tolist() == [-1, 0, 1, 2, 2, -1]
    assert rows[0, : len(without)].tolist() == without
    assert rows[1:5].tolist() == [[3, -1, -1], [7, -1, -1], [0, 2, 4], [5, -1, -1]]


@pytest.mark.parametrize("num_rows", [1, 15, 16, 17, 100, 257, 2048])
@pytest.mark.parametrize("num_slots", [1, 3, 40])
def test_there_are_chunks_for_every_mix(num_rows, num_slots):
    rng = np.random.default_rng(num_rows)
    count = num_chunks(num_rows, num_slots)
    size = 16 if num_rows <= 256 else 64
    for most in {1, num_slots}:
        slots, rows = np.full(count, -1), np.full((count, size), -1)
        wanted = rng.integers(-1, most, num_rows)
        fill_chunks(wanted, slots, rows)
        assert sorted(rows[rows >= 0]) == list(range(num_rows))
        for slot, of_chunk in zip(slots, rows, strict=True):
            assert set(wanted[of_chunk[of_chunk >= 0]]) <= {slot}


def test_logits_are_widened_with_what_nobody_chooses():
    wide = widened(torch.zeros(2, 3), 5)
    assert wide[:, 3:].eq(-torch.inf).all()
    assert widened(wide, 5) is wide


@pytest.fixture
def slots():
    linear = Linear(4, 3)
    linear.weight_shapes("p")
    linear.allocate({"p.weight": FORMATS["F32"]}, dtype=torch.float32, device=CPU)
    linear.finish()
    sizes = PoolSizes(num_slots=2, rank=3, dtype=torch.float32, device=CPU)
    return LoraSlots(torch.nn.ModuleDict({"p": linear}), sizes, max_batch_size=4)


def prepared(mode=LoraMode.DELTAS, known=0, **parts):
    part = LoraPart(a=torch.ones(2, 4), b=torch.ones(3, 2), **parts)
    return PreparedLora(content="c", parts={"p": part}, mode=mode, num_known_tokens=known)


def test_room_is_made_when_a_layer_is_first_touched(slots):
    assert (slots.num_bytes, slots.version) == (0, 0)
    slots.allocate(prepared().parts.items())
    assert slots.version == 1
    made = slots.num_bytes
    assert made > 0
    slots.allocate(prepared().parts.items())
    assert (slots.num_bytes, slots.version) == (made, 1)
    slots.allocate(prepared(gain=torch.ones(3)).parts.items())
    assert (slots.num_bytes > made, slots.version) == (True, 2)


def test_the_mode_is_the_most_that_a_row_needs(slots):
    slots.place(0, prepared())
    slots.place(1, prepared(LoraMode.OWN, known=7))
    for slot, lora in ((0, -1), (1, 0), (2, 1)):
        slots.admit(
            Admission(slot=slot, tokens=[1], num_prompt=1, sampling=SamplingParams(), lora=lora)
        )
    assert slots.mode(slots.of([0])) is LoraMode.OFF
    assert slots.mode(slots.of([0, 1])) is LoraMode.DELTAS
    assert slots.mode(slots.of([0, 1, 2])) is LoraMode.OWN
    assert slots.num_known_tokens(slots.of([0, 1]), 5) is None
    assert slots.num_known_tokens(slots.of([2, 1, 0]), 5) == [7, 5, 5]
