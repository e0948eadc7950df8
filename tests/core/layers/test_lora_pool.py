"""One product with adapters beside it, against the definition in float64."""

from __future__ import annotations

import pytest
import torch

from ferrule.layers import Linear
from ferrule.layers.lora import LoraMode, LoraPart, LoraRows, LoraState, PoolSizes

CPU = torch.device("cpu")
SIZES = PoolSizes(num_slots=2, rank=5, dtype=torch.float32, device=CPU)
ROWS = LoraRows(groups=[(0, slice(1, 3)), (1, torch.tensor([0, 4]))])  # row 3 wants nothing


class Fixed:
    """A fused layer with biases, and the exact weights of its parts."""

    def __init__(self, fill):
        torch.manual_seed(0)
        self.tensors = {
            "l.q.weight": torch.randn(6, 8),
            "l.q.bias": torch.randn(6),
            "l.v.weight": torch.randn(4, 8),
            "l.v.bias": torch.randn(4),
        }
        self.layer = fill(Linear(8, {"q": 6, "v": 4}, bias=True), self.tensors, "l.qv")
        self.state = LoraState()
        self.sites = self.layer.enable_lora("l.qv", self.state, SIZES)
        self.x = torch.randn(5, 8)

    def place(self, slot, name, part):
        if part is not None:
            self.sites[name].allocate(part)
            self.sites[name].touch(part)
        for target, source in self.sites[name].place(slot, part):
            target.copy_(source)

    def run(self, mode=LoraMode.DELTAS, rows=ROWS, **options):
        with self.state.using(mode, {5: rows}):
            return self.layer(self.x, **options)

    def exact(self, name, rows, part=None):
        part = part or LoraPart()
        x, weight = self.x[rows].double(), self.tensors[f"l.{name}.weight"].double()
        y = x @ (weight if part.own is None else part.own.double()).T
        if part.own is None:
            y += self.tensors[f"l.{name}.bias"].double()
        if part.a is not None:
            y += x @ part.a.double().T @ part.b.double().T
        if part.gain is not None:
            y *= part.gain.double()
        return y if part.bias is None else y + part.bias.double()


@pytest.fixture
def fixed(fill):
    return Fixed(fill)


def low_rank(rank, num_out, **others):
    return LoraPart(a=torch.randn(rank, 8), b=torch.randn(num_out, rank), **others)


def close(found, exact):
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)


def test_parts_are_named_as_weights_are(fixed):
    assert {name: site.shape for name, site in fixed.sites.items()} == {
        "l.q": (6, 8),
        "l.v": (4, 8),
    }
    assert not fixed.sites["l.q"].gathers
    weight, bias = fixed.sites["l.v"].base()
    assert torch.equal(weight, fixed.tensors["l.v.weight"])
    assert torch.equal(bias, fixed.tensors["l.v.bias"])


def test_each_row_has_its_own_adapter_and_ranks_differ(fixed):
    q0, v0, v1 = low_rank(5, 6), low_rank(2, 4), low_rank(3, 4)
    fixed.place(0, "l.q", q0)
    fixed.place(0, "l.v", v0)
    fixed.place(1, "l.v", v1)
    y = fixed.run()
    close(y[1:3, :6], fixed.exact("q", slice(1, 3), q0))
    close(y[1:3, 6:], fixed.exact("v", slice(1, 3), v0))
    close(y[[0, 4], :6], fixed.exact("q", [0, 4]))
    close(y[[0, 4], 6:], fixed.exact("v", [0, 4], v1))
    close(y[3:4, 6:], fixed.exact("v", [3]))
    assert torch.equal(fixed.run(LoraMode.OFF), fixed.layer(fixed.x))


def test_gains_and_biases_act_on_the_adapters_rows_beside_a_residual(fixed):
    part = low_rank(2, 6, gain=torch.rand(6) + 0.5, bias=torch.randn(6))
    fixed.place(0, "l.q", part)
    fixed.place(1, "l.q", low_rank(1, 6))
    residual = torch.randn(5, 10)
    y = fixed.run(LoraMode.SCALED, add_to=residual.clone()) - residual
    close(y[1:3, :6], fixed.exact("q", slice(1, 3), part))
    close(y[3:4, :6], fixed.exact("q", [3]))
    close(y[:, 6:], fixed.exact("v", slice(None)))


def test_a_weight_of_its_own_takes_the_place_of_the_models(fixed):
    part = LoraPart(own=torch.randn(4, 8))
    fixed.place(1, "l.v", part)
    y = fixed.run(LoraMode.OWN)
    close(y[[0, 4], 6:], fixed.exact("v", [0, 4], part))
    close(y[:, :6], fixed.exact("q", slice(None)))
    fixed.place(1, "l.v", None)
    close(fixed.run(LoraMode.OWN)[[0, 4], 6:], fixed.exact("v", [0, 4]))


def test_gated_products_see_adapters_too(fixed):
    fixed.place(0, "l.q", low_rank(2, 6))
    with fixed.state.using(LoraMode.DELTAS, {5: ROWS}):
        gate, up = fixed.layer(fixed.x).chunk(2, dim=-1)
        torch.testing.assert_close(fixed.layer.gated(fixed.x), torch.nn.functional.silu(gate) * up)


def test_what_a_slot_had_before_is_gone(fixed):
    fixed.place(0, "l.q", low_rank(5, 6, gain=torch.zeros(6), bias=torch.ones(6)))
    part = low_rank(2, 6)
    fixed.place(0, "l.q", part)
    close(fixed.run(LoraMode.SCALED)[1:3, :6], fixed.exact("q", slice(1, 3), part))
    fixed.place(0, "l.q", None)
    close(fixed.run(LoraMode.SCALED)[:, :6], fixed.exact("q", slice(None)))


def test_room_alone_gives_a_layer_nothing_to_do(fixed):
    pool = fixed.layer.lora
    assert pool.allocate(LoraPart(a=torch.empty(0), b=torch.empty(0))) > 0
    with fixed.state.using(LoraMode.DELTAS, {5: ROWS}):
        assert not pool.is_active
        assert pool.touch(low_rank(1, 6))
        assert pool.is_active
        assert not pool.touch(low_rank(1, 6))
