"""The numbers of a step with prompt chunks, against such as were written by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferrule.plan import Admission, Chunk, SamplingParams
from ferrule.runtime import shared_blocks
from ferrule.runtime.mixed_batch import MixedBatch, Shape, padding_numbers, tensors_of
from ferrule.runtime.slots import Slots

BLOCK, LENGTH, NUM_SLOTS, SCRAP_ROW = 4, 2400, 6, 4004
TABLES = [[11, 2, 7, 30], [1, 0, 3, 8], [4, 6, 10, 12], [15, 16, 17, 18]]


def make(*chunks, known=LENGTH):
    """``chunks``: slot, span of positions that runs, and whether its last token gives another."""
    slots = Slots(NUM_SLOTS, max_length=LENGTH, block_size=BLOCK, padding_block=1000)
    plan = []
    for slot, (start, end), samples in chunks:
        tokens = [100 * slot + position for position in range(min(end, known))]
        params = SamplingParams()
        slots.admit(Admission(slot=slot, tokens=tokens, num_prompt=1, sampling=params))
        table = TABLES[slot] if slot < len(TABLES) else []
        blocks = [*table, *range(1, 600)][: -(-end // BLOCK)]
        chunk = Chunk(
            slot=slot, start=start, num_tokens=end - start, new_blocks=blocks, samples=samples
        )
        plan.append(chunk)
        slots.grow(chunk)
    return MixedBatch(plan, slots)


def tensors(batch, shape=None):
    shape = shape or batch.shape
    numbers = batch.numbers(shape, num_slots=NUM_SLOTS, scrap_row=SCRAP_ROW)
    return tensors_of(torch.from_numpy(numbers), shape, num_slots=NUM_SLOTS)


def mixed():
    """Two prompts and two single tokens; one of those the device has sampled, 9 being known."""
    return make(
        (2, (0, 6), False), (0, (9, 10), True), (3, (4, 9), True), (1, (0, 1), True), known=9
    )


POSITIONS = [9, 0, 0, 1, 2, 3, 4, 5, 4, 5, 6, 7, 8]
CACHE_ROWS = [7 * 4 + 1, 1 * 4, 16, 17, 18, 19, 24, 25, 64, 65, 66, 67, 68]


def test_single_tokens_come_first_and_each_token_goes_to_its_place():
    batch = mixed()
    assert batch.shape == Shape(13, 2, 2)
    assert batch.spans == [slice(2, 8), slice(0, 1), slice(8, 13), slice(1, 2)]
    found = tensors(batch)
    assert found.tokens.tolist()[1:] == [100, *range(200, 206), *range(304, 309)]
    assert found.positions.tolist() == POSITIONS
    assert found.cache_rows.tolist() == CACHE_ROWS


def test_single_tokens_say_how_long_their_sequences_are_and_where_the_token_is():
    found = tensors(mixed())
    assert found.single_slots.tolist() == [0, 1]
    assert found.single_lengths.tolist() == [10, 1]
    assert found.is_sampled.tolist() == [1, 0]
    assert found.single_starts.tolist() == [0, 0]


def test_samples_keep_the_plans_order_and_prompts_that_go_on_have_none():
    found = tensors(mixed())
    assert found.slots.tolist() == [2, 0, 3, 1, 6, 6]
    assert found.ends.tolist() == [6, 10, 9, 1, 0, 0]
    assert found.sample_rows.tolist() == [0, 12, 1, 0, 0, 0]
    assert found.sample_slots.tolist() == [0, 3, 1, 6, 6, 6]
    assert found.sample_positions.tolist() == [10, 9, 1, 0, 0, 0]


def test_tiles_name_slot_row_number_of_queries_and_first_position():
    assert tensors(mixed()).tiles.tolist() == [[3, 8, 5, 4], [2, 2, 6, 0]]


def test_tiles_with_the_most_keys_come_first():
    batch = make((1, (0, 70), True), (2, (300, 420), True), (0, (80, 81), True))
    assert batch.shape == Shape(191, 1, 4)
    assert tensors(batch).tiles.tolist() == [
        [2, 71 + 64, 56, 364],
        [2, 71, 64, 300],
        [1, 1 + 64, 6, 64],
        [1, 1, 64, 0],
    ]


@pytest.mark.parametrize(("num_rows", "sizes"), [(1024, [64] * 16), (1025, [128] * 8 + [1])])
def test_many_tokens_fill_the_device_with_larger_tiles(num_rows, sizes):
    batch = make((0, (0, num_rows), True))
    assert batch.shape.query_tile == sizes[0]
    found = tensors(batch).tiles
    assert sorted(found[:, 2].tolist(), reverse=True) == sizes


def test_what_pads_belongs_to_the_padding_slot_and_the_scrap_row():
    own, found = tensors(mixed()), tensors(mixed(), Shape(32, 8, 5))
    assert found.tokens.tolist() == [*own.tokens.tolist(), *[0] * 19]
    assert found.positions.tolist() == [*POSITIONS, *[0] * 19]
    assert found.cache_rows.tolist() == [*CACHE_ROWS, *[SCRAP_ROW] * 19]
    assert found.single_slots.tolist() == [0, 1, *[NUM_SLOTS] * 6]
    assert found.single_lengths.tolist() == [10, 1, *[0] * 6]
    assert found.is_sampled.tolist() == [1, 0, *[0] * 6]
    assert found.single_starts.tolist() == [0] * 8
    assert found.shared.tolist() == [0, 0]
    assert found.tiles.tolist() == [[3, 8, 5, 4], [2, 2, 6, 0], *[[0] * 4] * 3]
    for name in ("slots", "ends", "sample_rows", "sample_slots", "sample_positions"):
        assert torch.equal(getattr(found, name), getattr(own, name)), name


def test_a_step_in_which_every_row_pads():
    shape = Shape(5, 2, 3)
    numbers = padding_numbers(shape, num_slots=NUM_SLOTS, scrap_row=SCRAP_ROW)
    assert numbers.dtype == np.int64
    found = tensors_of(torch.from_numpy(numbers), shape, num_slots=NUM_SLOTS)
    assert found.cache_rows.tolist() == [SCRAP_ROW] * 5
    assert found.single_slots.tolist() == [NUM_SLOTS] * 2
    assert found.slots.tolist() == found.sample_slots.tolist() == [NUM_SLOTS] * NUM_SLOTS
    zeros = (found.tokens, found.positions, found.single_lengths, found.is_sampled)
    zeros += (found.single_starts, found.shared, found.ends, found.sample_rows)
    zeros += (found.sample_positions, found.tiles)
    assert not any(part.any() for part in zeros)
    assert [*found.tiles.shape] == [3, 4]


def test_a_step_without_single_tokens_or_without_others():
    prompts = tensors(make((1, (0, 5), True)))
    assert (prompts.single_slots.numel(), prompts.tiles.tolist()) == (0, [[1, 0, 5, 0]])
    singles = tensors(make((1, (0, 1), True)))
    assert (singles.single_lengths.tolist(), singles.tiles.numel()) == ([1], 0)


def test_single_tokens_that_begin_alike_share(monkeypatch):
    monkeypatch.setattr(shared_blocks, "_LEAST_MEMBERS", 2)
    monkeypatch.setattr(shared_blocks, "_LEAST_TOKENS", 2 * BLOCK)
    monkeypatch.setattr(
        f"{__name__}.TABLES",
        [[40, 41, 42, 43], [50, 51, 52, 53], [40, 41, 44, 45], [40, 41, 42, 46]],
    )
    prompt = (0, (0, 9), True)
    batch = make(prompt, (1, (12, 13), True), (2, (9, 10), True), (3, (13, 14), True))
    assert batch.shape == Shape(12, 3, 1, True)
    found = tensors(batch, Shape(32, 8, 2, True))
    assert found.single_slots.tolist()[:3] == [1, 2, 3]
    assert found.single_starts.tolist() == [0, 8, 8, *[0] * 5]
    assert found.shared.tolist()[0] in (2, 3)
    assert found.shared.tolist()[1] == 8


SPANS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 150), st.booleans()),
    min_size=1,
    max_size=NUM_SLOTS,
)


@settings(deadline=None, max_examples=40)
@given(spans=SPANS, order=st.randoms(use_true_random=False))
def test_tiles_hold_each_query_of_a_prompt_once_and_every_row_is_somebodys(spans, order):
    owners = list(range(NUM_SLOTS))
    order.shuffle(owners)
    chunks = [
        (slot, (start, start + count), samples)
        for slot, (start, count, samples) in zip(owners, spans, strict=False)
    ]
    batch = make(*chunks)
    found = tensors(batch)
    places = {
        (row, slot, position)
        for (slot, span, _), rows in zip(chunks, batch.spans, strict=True)
        for row, position in zip(range(rows.start, rows.stop), range(*span), strict=True)
    }
    assert sorted(row for row, _, _ in places) == list(range(batch.shape.num_rows))
    in_tiles = [
        (row + i, slot, first + i)
        for slot, row, count, first in found.tiles.tolist()
        for i in range(count)
    ]
    num_singles = batch.shape.num_singles
    assert len(in_tiles) == len(set(in_tiles))
    assert set(in_tiles) == {place for place in places if place[0] >= num_singles}
    assert all(0 < count <= batch.shape.query_tile for count in found.tiles[:, 2].tolist())
    singles = zip(found.single_slots.tolist(), found.single_lengths.tolist(), strict=True)
    expected = {place for place in places if place[0] < num_singles}
    assert {(row, slot, end - 1) for row, (slot, end) in enumerate(singles)} == expected
