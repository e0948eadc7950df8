from __future__ import annotations

import pytest
import torch

from ferrule.layers import Embedding, Linear
from ferrule.layers.lora import LoraMode, LoraPart, LoraRows, LoraState, TakesLora


def test_what_holds_for_a_step_ends_with_it():
    state = LoraState()
    rows = LoraRows(groups=[(0, slice(0, 2))])
    with state.using(LoraMode.DELTAS, {4: rows}):
        assert (state.mode, state.rows(4)) == (LoraMode.DELTAS, rows)
        with state.using(LoraMode.OFF, {}):
            assert state.mode is LoraMode.OFF
        assert state.rows(4) is rows
    assert state.mode is LoraMode.OFF


def test_a_layer_whose_first_dimension_is_no_token_is_noticed():
    state = LoraState()
    with (
        state.using(LoraMode.DELTAS, {4: LoraRows(), 2: LoraRows()}),
        pytest.raises(AssertionError, match=r"got 8 rows in a step of \[2, 4\]"),
    ):
        state.rows(8)


def test_modes_include_those_before_them():
    assert sorted(LoraMode) == [LoraMode.OFF, LoraMode.DELTAS, LoraMode.SCALED, LoraMode.OWN]


def test_a_part_lists_its_tensors():
    a, bias = torch.zeros(1), torch.ones(2)
    assert LoraPart(a=a, bias=bias).tensors == [a, bias]


def test_layers_with_weights_take_adapters():
    assert isinstance(Linear(4, 4), TakesLora)
    assert isinstance(Embedding(4, 4), TakesLora)
    assert not isinstance(torch.nn.Linear(4, 4), TakesLora)
