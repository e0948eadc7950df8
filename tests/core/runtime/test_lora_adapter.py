"""The formulas of an adapter worked out for a layer, against the definition of ``ModuleUpdate``."""

from __future__ import annotations

import pytest
import torch

from ferrule.layers import Linear
from ferrule.layers.lora import LoraMode, LoraState, PoolSizes
from ferrule.lora import Adapter, ModuleUpdate
from ferrule.quantization.formats import FORMATS
from ferrule.runtime.lora_adapter import prepare

CPU = torch.device("cpu")
SIZES = PoolSizes(num_slots=1, rank=4, dtype=torch.float32, device=CPU)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    made = Linear(8, 6, bias=True)
    weights = {"p.weight": torch.randn(6, 8), "p.bias": torch.randn(6)}
    made.weight_shapes("p")
    made.allocate(dict.fromkeys(weights, FORMATS["F32"]), dtype=torch.float32, device=CPU)
    for name, weight in weights.items():
        made.write(name, weight.view(torch.uint8).view(6, -1), FORMATS["F32"])
    made.finish()
    return made, weights


def prepared(layer, update, added=()):
    sites = layer.enable_lora("p", LoraState(), SIZES)
    adapter = Adapter(
        name="a",
        location="here",
        content="c",
        modules={"p": update},
        vocab_size=9,
        added_tokens=dict(added),
        files={},
        report=None,
    )
    return prepare(adapter, sites, SIZES)


def defined(update, weights, x):
    """``gain * (W' x + scale * B A x) + c + bias``, in float64."""
    own = weights["p.weight"] if update.full is None else update.full
    own, x = own.double(), x.double()
    delta = torch.zeros_like(own)
    if update.a is not None:
        delta = update.scale * update.b.double() @ update.a.double()
    y = x @ (own + delta).T
    if update.magnitude is not None:
        y = y * update.magnitude.double() / (own + delta).norm(dim=1)
    y = y + weights["p.bias"].double()
    return y if update.bias is None else y + update.bias.double()


def applied(part, weights, x):
    """What a layer does with a part: its own product, its bias in it, and then the part."""
    y = x @ weights["p.weight"].T + weights["p.bias"] if part.own is None else x @ part.own.T
    if part.a is not None:
        y = y + x @ part.a.T @ part.b.T
    y = y if part.gain is None else y * part.gain
    return y if part.bias is None else y + part.bias


LOW = {"a": torch.randn(3, 8), "b": torch.randn(6, 3), "scale": 0.3}
UPDATES = {
    "low rank": (LOW, LoraMode.DELTAS),
    "its own bias": ({**LOW, "bias": torch.randn(6)}, LoraMode.SCALED),
    "DoRA": ({**LOW, "magnitude": torch.rand(6) + 1}, LoraMode.SCALED),
    "DoRA and a bias": (
        {**LOW, "magnitude": torch.rand(6) + 1, "bias": torch.randn(6)},
        LoraMode.SCALED,
    ),
    "a whole weight": ({"full": torch.randn(6, 8)}, LoraMode.OWN),
    "all of it": (
        {
            **LOW,
            "full": torch.randn(6, 8),
            "magnitude": torch.rand(6) + 1,
            "bias": torch.randn(6),
        },
        LoraMode.OWN,
    ),
}


@pytest.mark.parametrize("kind", UPDATES)
def test_a_part_computes_what_the_update_means(layer, kind):
    made, weights = layer
    fields, mode = UPDATES[kind]
    update = ModuleUpdate(**fields)
    lora = prepared(made, update)
    x = torch.randn(5, 8)
    found = applied(lora.parts["p"], weights, x)
    torch.testing.assert_close(found.double(), defined(update, weights, x), rtol=1e-4, atol=1e-4)
    assert lora.mode is mode
    assert lora.num_bytes == sum(tensor.nbytes for tensor in lora.parts["p"].tensors)


def test_added_tokens_say_what_may_be_chosen(layer):
    made, _ = layer
    lora = prepared(made, ModuleUpdate(**LOW), added={"<new>": 11})
    assert (lora.num_known_tokens, lora.mode) == (12, LoraMode.OWN)
