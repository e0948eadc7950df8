"""A step's tensors, and what each query may look at, against the definition written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferrule.plan import Admission, Chunk, SamplingParams
from ferrule.runtime.batch import Masker, make_batch
from ferrule.runtime.slots import Slots

CPU = torch.device("cpu")
BLOCK, LENGTH = 4, 24
TABLES = [[11, 2, 7, 30, 5, 9], [1, 0, 3, 8, 20, 21], [4, 6, 10, 12, 13, 14], [15, 16, 17, 18, 19]]


def tokens_of(slot):
    return [100 * slot + position for position in range(LENGTH)]


def make(chunks, windows=(None,), dtype=torch.float32):
    """``chunks``: pairs of a slot and the span of its positions that runs."""
    slots = Slots(len(TABLES), max_length=LENGTH, block_size=BLOCK, padding_block=0)
    plan = []
    for slot, (start, end) in chunks:
        tokens = tokens_of(slot)[:end]
        params = SamplingParams()
        slots.admit(Admission(slot=slot, tokens=tokens, num_prompt=end, sampling=params))
        needed = TABLES[slot][: math.ceil(end / BLOCK)]
        plan.append(Chunk(slot=slot, start=start, num_tokens=end - start, new_blocks=needed))
        slots.grow(plan[-1])
    return make_batch(plan, slots, windows=frozenset(windows), dtype=dtype, device=CPU)


def sees(query, place, window):
    return place <= query and (window is None or query - place < window)


MIXED = [(2, (0, 6)), (0, (9, 10)), (3, (4, 9)), (1, (0, 1))]


def test_single_tokens_come_first_and_the_order_leads_back_to_the_chunks():
    batch = make(MIXED)
    assert batch.order == [slice(2, 8), slice(0, 1), slice(8, 13), slice(1, 2)]
    for (slot, span), rows in zip(MIXED, batch.order, strict=True):
        assert batch.tokens[rows].tolist() == tokens_of(slot)[slice(*span)]
        assert batch.positions[rows].tolist() == list(range(*span))
    assert len(batch.tokens) == len(batch.positions) == len(batch.cache_rows) == 13


def test_every_token_goes_to_its_place_in_its_block():
    batch = make(MIXED)
    for (slot, span), rows in zip(MIXED, batch.order, strict=True):
        places = [TABLES[slot][at // BLOCK] * BLOCK + at % BLOCK for at in range(*span)]
        assert batch.cache_rows[rows].tolist() == places


def test_a_step_of_one_kind_has_no_rows_of_the_other():
    assert make([(0, (0, 5)), (1, (3, 9))]).decodes == []
    assert make([(0, (4, 5)), (1, (0, 1))]).prefills == []


SINGLES = {slot: (end - 1, end) for slot, end in enumerate((10, 3, 16, 12))}


def test_the_longest_of_the_single_tokens_comes_first():
    batch = make(SINGLES.items())
    assert batch.positions.tolist() == [15, 11, 9, 2]
    assert [rows.start for rows in batch.order] == [2, 3, 0, 1]


@pytest.mark.parametrize(("most", "sizes"), [(1 << 18, [4]), (32, [2, 2]), (30, [1, 2, 1])])
def test_decode_rows_are_cut_into_groups_that_cover_them_all(monkeypatch, most, sizes):
    monkeypatch.setattr("ferrule.runtime.batch.MAX_GATHERED_TOKENS", most)
    batch = make(SINGLES.items())
    assert [len(group.tables) for group in batch.decodes] == sizes
    found = {}
    for group in batch.decodes:
        found |= zip(range(group.rows.start, group.rows.stop), group.tables.tolist(), strict=True)
    for (slot, (_, end)), rows in zip(SINGLES.items(), batch.order, strict=True):
        needed = math.ceil(end / BLOCK)
        assert found[rows.start][:needed] == TABLES[slot][:needed]


WINDOWS = st.sets(st.none() | st.integers(1, LENGTH + 3), min_size=1, max_size=3)
ENDS = st.lists(st.integers(1, 5 * BLOCK), min_size=2, max_size=4)


@settings(deadline=None, max_examples=60)
@given(ends=ENDS, most=st.integers(1, 100))
def test_no_group_of_several_rows_looks_at_more_places_than_allowed(ends, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ferrule.runtime.batch.MAX_GATHERED_TOKENS", most)
        groups = make([(slot, (end - 1, end)) for slot, end in enumerate(ends)]).decodes
    assert sum(len(group.tables) for group in groups) == len(ends)
    for group in groups:
        assert len(group.tables) == 1 or group.tables.numel() * BLOCK <= most


def test_prefill_rows_carry_where_they_are_and_their_blocks():
    first, second = make(MIXED).prefills
    assert (first.rows, first.start, first.blocks.tolist()) == (slice(2, 8), 0, TABLES[2][:2])
    assert (second.rows, second.start, second.blocks.tolist()) == (slice(8, 13), 4, TABLES[3][:3])


@settings(deadline=None, max_examples=60)
@given(ends=ENDS, windows=WINDOWS)
def test_decode_masks_show_each_row_what_the_definition_says(ends, windows):
    batch = make([(slot, (end - 1, end)) for slot, end in enumerate(ends)], windows)
    (rows,) = batch.decodes
    num_places = rows.tables.shape[1] * BLOCK
    assert rows.spans == {}
    assert rows.masks.keys() == windows
    for window, mask in rows.masks.items():
        assert mask.shape == (len(ends), 1, 1, num_places)
        for row, query in enumerate(batch.positions.tolist()):
            visible = [sees(query, place, window) for place in range(num_places)]
            assert mask[row, 0, 0].tolist() == [0.0 if yes else -math.inf for yes in visible]


@settings(deadline=None, max_examples=60)
@given(end=st.integers(1, LENGTH), windows=WINDOWS)
def test_a_row_that_is_alone_looks_at_a_span_without_a_mask(end, windows):
    (rows,) = make([(0, (end - 1, end))], windows).decodes
    assert rows.masks == {}
    assert rows.spans.keys() == windows
    for window, span in rows.spans.items():
        places = range(rows.tables.shape[1] * BLOCK)
        assert list(places[span]) == [at for at in places if sees(end - 1, at, window)]


@settings(deadline=None, max_examples=60)
@given(start=st.integers(0, LENGTH - 2), data=st.data(), windows=WINDOWS)
def test_prefill_masks_show_each_token_what_the_definition_says(start, data, windows):
    end = data.draw(st.integers(start + 2, LENGTH))
    (rows,) = make([(1, (start, end))], windows).prefills
    for window in windows:
        if window not in rows.masks:
            # Then plain causal attention over the chunk itself is meant, and must be enough.
            assert start == 0
            assert all(sees(at, 0, window) for at in range(end))
            continue
        mask = rows.masks[window]
        assert mask.shape == (end - start, end)
        for row, query in enumerate(range(start, end)):
            visible = [sees(query, place, window) for place in range(end)]
            assert mask[row].tolist() == [0.0 if yes else -math.inf for yes in visible]


def test_a_prompt_from_its_beginning_needs_a_mask_only_where_a_window_cuts_it():
    (rows,) = make([(0, (0, 9))], windows={None, 8, 9, 20}).prefills
    assert rows.masks.keys() == {8}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_are_of_the_type_of_the_scores_they_are_added_to(dtype):
    masker = Masker(windows=frozenset({None}), dtype=dtype, device=CPU)
    mask = masker.mask(torch.tensor([[0, 2], [1, 3]]), 4, window=2)
    assert mask.dtype is dtype
    visible = [[[1, 0, 0, 0], [0, 1, 1, 0]], [[1, 1, 0, 0], [0, 0, 1, 1]]]
    assert torch.equal(mask == 0, torch.tensor(visible, dtype=torch.bool))
    assert torch.equal(mask.isinf(), ~torch.tensor(visible, dtype=torch.bool))
