"""Sizes of planes."""

from __future__ import annotations

import gguf
import pytest

from ferrule.kernels.plane_layout import LAYOUTS


@pytest.mark.parametrize("name", LAYOUTS)
def test_planes_take_about_what_the_blocks_take(name):
    size, num_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    stored = 4096 * 14336 // size * num_bytes
    more = LAYOUTS[name].num_bytes(4096, 14336) / stored - 1
    # Of Q3_K's scales, those of 6 bits take 8; and all that share a float16 a float32.
    assert 0 <= more < (0.06 if name == "Q3_K" else 0.03)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_unit_is_whole_in_every_plane(name):
    layout = LAYOUTS[name]
    assert layout.chunks_of_unit % layout.low_span == 0
    assert layout.chunks_of_unit % layout.high_span == 0
    assert layout.padded(layout.unit + 1) == 2 * layout.unit
    assert not layout.has_tops or layout.chunks_of_unit % layout.chunks_of_top == 0
