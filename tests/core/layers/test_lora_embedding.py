from __future__ import annotations

import pytest
import torch

from ferrule.layers import Embedding
from ferrule.layers.lora import LoraMode, LoraPart, LoraRows, LoraState, PoolSizes

SIZES = PoolSizes(num_slots=2, rank=4, dtype=torch.float32, device=torch.device("cpu"))
TOKENS = torch.tensor([3, 11, 0, 3])
ROWS = LoraRows(groups=[(1, slice(1, 3))])


@pytest.fixture
def embedded(fill):
    """``embedded(part, tied)``: an embedding, its state, its rows, and slot 1 with the part."""

    def make(name, part, *, tied=False):
        torch.manual_seed(0)
        rows = torch.randn(10, 6)
        layer = fill(Embedding(10, 6, tied=tied), {"e.weight": rows}, "e")
        state = LoraState()
        sites = layer.enable_lora("e", state, SIZES)
        sites[name].allocate(part)
        sites[name].touch(part)
        for target, source in sites[name].place(1, part):
            target.copy_(source)
        return layer, state, rows, sites

    return make


def test_rows_of_its_own_may_be_more_than_the_models(embedded):
    own = torch.randn(12, 6)
    layer, state, rows, sites = embedded("e", LoraPart(own=own))
    assert sites["e"].gathers
    assert torch.equal(sites["e"].base()[0], rows)
    with state.using(LoraMode.OWN, {4: ROWS}):
        found = layer(TOKENS)
    assert torch.equal(found, torch.stack([rows[3], own[11], own[0], rows[3]]))
    assert torch.equal(layer(TOKENS[2:]), rows[TOKENS[2:]])


def test_low_rank_rows_are_added(embedded):
    part = LoraPart(a=torch.randn(3, 10), b=torch.randn(6, 3))
    layer, state, rows, _ = embedded("e", part)
    tokens = TOKENS.clamp(max=9)
    with state.using(LoraMode.OWN, {4: ROWS}):
        found = layer(tokens)
    exact = rows[tokens]
    exact[1:3] += (part.b @ part.a).T[tokens[1:3]]
    torch.testing.assert_close(found, exact)


def test_a_tied_head_has_a_part_of_its_own(embedded):
    own = torch.randn(12, 6)
    layer, state, rows, sites = embedded("lm_head", LoraPart(own=own), tied=True)
    assert list(sites) == ["e", "lm_head"]
    hidden = torch.randn(4, 6)
    with state.using(LoraMode.OWN, {4: ROWS}):
        logits = layer.logits(hidden)
        assert torch.equal(layer(TOKENS[[0, 2, 2, 3]]), rows[[3, 0, 0, 3]])
    torch.testing.assert_close(logits[1:3], hidden[1:3] @ own.T)
    torch.testing.assert_close(logits[[0, 3], :10], hidden[[0, 3]] @ rows.T)
    assert logits[[0, 3], 10:].eq(-torch.inf).all()
