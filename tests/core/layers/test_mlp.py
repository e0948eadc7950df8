"""The feed-forward network against transformers' LlamaMLP."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from ferrule.layers import MLP

HIDDEN, INNER = 24, 40


@pytest.fixture(params=[False, True], ids=["plain", "biases"])
def theirs(request):
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_attention_heads=1,
        mlp_bias=request.param,
    )
    mlp = LlamaMLP(config)
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.normal_()
    return mlp.requires_grad_(False)


@pytest.fixture
def ours(theirs, fill):
    """``ours(dtype)``: the same weights, under the names that transformers gives them."""
    tensors = {f"layer.mlp.{name}": data for name, data in theirs.state_dict().items()}

    def make(dtype):
        mlp = MLP(HIDDEN, INNER, bias="layer.mlp.up_proj.bias" in tensors)
        return fill(mlp, tensors, "layer.mlp", dtype=dtype)

    return make


@pytest.mark.parametrize("shape", [(1, HIDDEN), (7, HIDDEN), (2, 3, HIDDEN)])
def test_output_equals_transformers(theirs, ours, shape):
    x = torch.randn(shape)
    torch.testing.assert_close(ours(torch.float32)(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_bfloat16_is_near_what_float64_gives(theirs, ours):
    x = torch.randn(5, HIDDEN).bfloat16()
    mlp = ours(torch.bfloat16)
    expected = theirs.bfloat16().double()(x.double())
    y = mlp(x)
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y.double(), expected, rtol=3e-2, atol=3e-2 * expected.std().item())
