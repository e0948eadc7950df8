"""Products under torch.compile: operators that are called, and that say the truth of themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ferrule.kernels.product import gated_product, product, silu_mul
from ferrule.kernels.product_op import gated_product_op, product_op


def random(*shape):
    return torch.randn(shape)


@pytest.fixture(autouse=True)
def fresh():
    torch.manual_seed(0)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def compiled():
    """``compiled(function)(*args)``: traced, then run as it is; ``.called`` are its operators."""

    class Compiled:
        def __init__(self):
            self.called = []

        def __call__(self, function):
            def backend(graph, inputs):
                nodes = [node for node in graph.graph.nodes if node.op.startswith("call")]
                self.called += [str(node.target) for node in nodes]
                return graph.forward

            return torch.compile(function, fullgraph=True, dynamic=True, backend=backend)

    return Compiled()


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("num_rows", [1, 3, 100])
def test_a_compiled_product_is_the_operator_and_equals_the_product(
    compiled, num_rows, biased, adds
):
    x, weight, bias = random(num_rows, 20), random(14, 20), random(14) if biased else None
    hidden = random(num_rows, 14)
    expected = product(x, weight, bias, hidden.clone() if adds else None)
    added = hidden.clone() if adds else None
    found = compiled(product)(x, weight, bias, added)
    assert compiled.called == ["ferrule.add_product" if adds else "ferrule.product"]
    torch.testing.assert_close(found, expected)
    if adds:
        torch.testing.assert_close(added, expected, msg="it takes the result")


@pytest.mark.parametrize("biased", [False, True])
def test_a_compiled_gated_product_is_the_operator_too(compiled, biased):
    x, weight, bias = random(5, 20), random(12, 20), random(12) if biased else None
    found = compiled(gated_product)(x, weight, bias)
    assert compiled.called == ["ferrule.gated_product"]
    torch.testing.assert_close(found, gated_product(x, weight, bias))


def test_a_compiled_gate_is_plain_torch(compiled):
    x = random(5, 20)
    torch.testing.assert_close(compiled(silu_mul)(x), silu_mul(x))
    assert not any("ferrule" in name for name in compiled.called)


@pytest.mark.parametrize("function", [product, gated_product])
def test_more_dimensions(compiled, function):
    x, weight = random(2, 3, 20), random(14, 20)
    torch.testing.assert_close(compiled(function)(x, weight), function(x, weight))


def test_the_operators_can_be_called_without_a_compiler():
    x, weight, hidden = random(5, 20), random(14, 20), random(5, 14)
    torch.testing.assert_close(product_op(x, weight), product(x, weight))
    torch.testing.assert_close(gated_product_op(x, weight), gated_product(x, weight))
    expected = hidden + product(x, weight)
    assert product_op(x, weight, add_to=hidden) is hidden
    torch.testing.assert_close(hidden, expected)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["product", "gated_product", "add_product"])
@pytest.mark.parametrize("biased", [False, True])
def test_what_the_operators_say_of_themselves_is_true(name, biased):
    """By torch's own check: what they write, and the shape and strides of what they give."""
    weight = nn.Parameter(random(14, 20), requires_grad=False)
    args = (random(5, 20), weight, random(14) if biased else None)
    if name == "add_product":
        args = (*args, random(5, 14))
    torch.library.opcheck(getattr(torch.ops.ferrule, name), args)
