"""Which shape a step with prompt chunks takes, and what it leaves on the device."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ferrule.layers.attention import AttentionSpec
from ferrule.plan import Admission, Chunk, SamplingParams, step_tokens
from ferrule.runtime.device_slots import DeviceSlots
from ferrule.runtime.kv_cache import KVCache
from ferrule.runtime.mixed_batch import MixedBatch, Shape
from ferrule.runtime.mixed_graphs import ROWS, SINGLES, MixedGraphs, likely_shapes, padded_shape
from ferrule.runtime.slots import Slots

CPU = torch.device("cpu")
SPEC = AttentionSpec(num_heads=1, num_kv_heads=1, head_dim=2, window=None, scale=1.0)
NUM_SLOTS = st.sampled_from([1, 4, 8, 63, 64, 256, 300, 4096])


@st.composite
def steps(draw):
    """A number of slots, and the shape of a step that they can make."""
    num_slots = draw(NUM_SLOTS)
    num_singles = draw(st.integers(0, num_slots))
    num_others = draw(st.integers(0, 3000) if num_singles else st.integers(2, 3000))
    num_tiles = draw(st.integers(-(-num_others // 128), num_others // 2 + 1))
    shares = draw(st.booleans())
    return num_slots, Shape(num_singles + num_others, num_singles, num_tiles, shares)


def is_room(shape, other):
    return (
        shape.num_rows >= other.num_rows
        and shape.num_singles >= other.num_singles
        and shape.num_tiles >= other.num_tiles
        and shape.query_tile >= other.query_tile
        and shape.shares == other.shares
    )


@given(step=steps())
def test_a_shape_has_room_for_its_batch_and_is_its_own(step):
    num_slots, shape = step
    padded = padded_shape(shape, num_slots=num_slots)
    if padded is None:
        return
    assert is_room(padded, shape)
    assert padded.num_rows >= padded.num_singles, "single tokens are rows"
    assert padded_shape(padded, num_slots=num_slots) == padded


@given(step=steps())
def test_only_what_is_too_large_or_has_too_many_tiles_runs_without_a_graph(step):
    num_slots, shape = step
    fits = shape.num_rows <= 2048 and shape.num_tiles <= shape.num_rows // 16
    # Prompts of 16 tokens and more never have more tiles than that.
    if fits:
        assert padded_shape(shape, num_slots=num_slots) is not None
    if shape.num_rows > 2048 or shape.num_tiles > 2048 // 16:
        assert padded_shape(shape, num_slots=num_slots) is None


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (Shape(10, 1, 1), Shape(32, 8, 2)),
        (Shape(32, 8, 2), Shape(32, 8, 2)),
        (Shape(33, 8, 1, True), Shape(64, 8, 4, True)),
        (Shape(20, 9, 1), Shape(64, 64, 4)),
        (Shape(500, 65, 4), Shape(512, 256, 32)),
        (Shape(2048, 0, 16), Shape(2048, 8, 128)),
        (Shape(2049, 0, 17), None),
        (Shape(40, 0, 20), None),
    ],
)
def test_shapes_written_out(shape, expected):
    assert padded_shape(shape, num_slots=256) == expected


@pytest.mark.parametrize("num_slots", [4, 64, 256, 300])
def test_there_are_few_shapes(num_slots):
    found = set()
    for num_rows in range(1, 2100):
        for num_singles in {min(num_rows, n, num_slots) for n in (0, 1, 8, 9, 64, 65, 256, 300)}:
            for num_tiles in {-(-num_rows // 128), num_rows // 16, num_rows // 2}:
                found.add(
                    padded_shape(Shape(num_rows, num_singles, num_tiles), num_slots=num_slots)
                )
    found.discard(None)
    # With the number of tiles as a third measure there would be many more.
    assert len(found) <= len(ROWS) * (len(SINGLES) + (num_slots > SINGLES[-1]))


class Model:
    """Remembers what it was given; a row's hidden state is its token and position."""

    def __init__(self):
        self.rows = None
        self.narrows = False

    def attention_specs(self):
        return [SPEC, SPEC]

    def __call__(self, tokens, positions, attends):
        self.rows = [attend.rows for attend in attends]
        assert attends[0].kept is None, "later layers need all rows"
        hidden, kept = torch.stack((tokens, positions), dim=1), attends[1].kept
        return hidden if kept is None else hidden[kept]


@pytest.fixture
def parts():
    cache = KVCache([SPEC, SPEC], num_blocks=30, block_size=4, dtype=torch.float32, device=CPU)
    device_slots = DeviceSlots(3, max_length=40, cache=cache, device=CPU)
    model = Model()
    graphs = MixedGraphs(model, cache, device_slots, max_tokens=600, pool=None)
    return SimpleNamespace(model=model, graphs=graphs, device_slots=device_slots)


def test_first_shapes_are_such_as_steps_take_and_no_larger_than_a_step(parts):
    shapes = parts.graphs.first_shapes()
    assert shapes == sorted(shapes, key=lambda shape: -shape.num_rows)
    assert len(set(shapes)) == len(shapes) > 0
    for shape in shapes:
        assert shape.num_rows <= 600
        assert padded_shape(shape, num_slots=3) == shape
    assert parts.graphs.shapes == [], "none is made before it is asked for"


@pytest.fixture
def batch(parts):
    """A prompt of three tokens between two single ones, the first of which the device sampled."""
    slots = Slots(3, max_length=40, block_size=4, padding_block=30)
    chunks = [
        Chunk(slot=0, start=4, num_tokens=1, new_blocks=[7, 9]),
        Chunk(slot=2, start=0, num_tokens=3, new_blocks=[5]),
        Chunk(slot=1, start=1, num_tokens=1, new_blocks=[8]),
    ]
    for chunk, known in zip(chunks, ([1, 2, 3, 4], [20, 21, 22], [11, 12]), strict=True):
        slots.admit(
            Admission(slot=chunk.slot, tokens=known, num_prompt=1, sampling=SamplingParams())
        )
        slots.grow(chunk)
        parts.device_slots.grow(chunk.slot, 0, np.array(chunk.new_blocks))
    parts.device_slots.flush()
    parts.device_slots.last_tokens[:] = torch.tensor([50, 51, 52, 53])
    return MixedBatch(chunks, slots)


def test_a_step_takes_sampled_tokens_from_the_device_and_leaves_lengths_there(parts, batch):
    computed = parts.graphs.run(batch)
    # Slot 0's fifth token was sampled; the second of slot 1 is known, whatever was sampled.
    assert computed.hidden.tolist() == [[50, 4], [12, 1], [20, 0], [21, 1], [22, 2]]
    assert computed.of_samples(2).tolist() == [[50, 4], [22, 2]]
    assert parts.device_slots.lengths.tolist() == [5, 2, 3, 0]
    for rows in parts.model.rows:
        assert rows.cache_rows.tolist() == [9 * 4, 8 * 4 + 1, 20, 21, 22]
        assert rows.tables[:, 0].tolist() == [7, 8]
        assert rows.lengths.tolist() == [5, 2]
        assert rows.tiles.tolist() == [[2, 2, 3, 0]]
        assert rows.shared is None


def test_a_model_that_can_gives_the_rows_of_samples_alone_unless_all_are_wanted(parts, batch):
    parts.model.narrows = True
    samples = [[50, 4], [22, 2], [12, 1]]
    computed = parts.graphs.run(batch)
    assert computed.hidden.tolist() == samples
    assert [computed.of_samples(count).tolist() for count in (3, 1)] == [samples, samples[:1]]
    computed = parts.graphs.run(batch, wants_all=True)
    assert len(computed.hidden) == 5
    assert computed.of_samples(3).tolist() == samples


@pytest.mark.parametrize(("num_slots", "max_tokens"), [(1, 64), (4, 600), (256, 2048), (300, 1700)])
def test_likely_shapes_are_those_of_full_steps_and_of_prompts_alone(num_slots, max_tokens):
    wanted = {
        Shape(step_tokens(count, total, max_tokens), count, 0)
        for total in range(num_slots)
        for count in range(total + 1)
    }
    wanted |= {Shape(rows, 0, 0) for rows in range(1, max_tokens)}
    found = likely_shapes(max_tokens=max_tokens, num_slots=num_slots)
    assert {padded_shape(shape, num_slots=num_slots) for shape in wanted} <= set(found)
    assert len(set(found)) == len(found)
    assert {padded_shape(shape, num_slots=num_slots) for shape in found} == set(found)


def test_likely_shapes_of_the_usual_limits_written_out():
    found = [(s.num_rows, s.num_singles) for s in likely_shapes(max_tokens=2048, num_slots=256)]
    full = [(512, 8), (512, 64), (768, 8), (768, 64), (768, 256), (1024, 8)]
    assert found[:6] == full
    steps = {(rows, count) for rows in range(768, 2049, 256) for count in (8, 64, 256)}
    assert steps | {(32, 8), (64, 64), (256, 256), (384, 256)} <= set(found)
    assert len(found) == 2 + len(steps) + 13 + 2


def test_shapes_that_have_a_graph_are_not_missing(parts):
    first, *others = parts.graphs.missing()
    parts.graphs._graphs[first] = None
    assert parts.graphs.missing() == others
