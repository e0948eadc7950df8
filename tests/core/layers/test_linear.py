"""Linear layers over named parts, formats and biases."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ferrule.layers import Linear
from ferrule.quantization.formats import FORMATS


def bytes_of(weights: torch.Tensor) -> torch.Tensor:
    return weights.contiguous().view(torch.uint8).view(weights.shape[0], -1)


def filled(linear, path, tensors, formats=None, dtype=torch.float32):
    """The layer with these tensors, written the way the loader does."""
    shapes = linear.weight_shapes(path)
    assert shapes.keys() == tensors.keys()
    formats = formats or dict.fromkeys(shapes, FORMATS["F32"])
    linear.allocate(formats, dtype=dtype, device=torch.device("cpu"))
    for name, data in tensors.items():
        linear.write(name, data, formats[name])
    linear.finish()
    return linear


def test_a_single_part_takes_its_own_name_and_a_fused_one_its_parts_names():
    assert Linear(8, 4, bias=True).weight_shapes("a.o_proj") == {
        "a.o_proj.weight": (4, 8),
        "a.o_proj.bias": (4,),
    }
    fused = Linear(8, {"q_proj": 6, "k_proj": 2})
    assert fused.weight_shapes("a.qkv_proj") == {
        "a.q_proj.weight": (6, 8),
        "a.k_proj.weight": (2, 8),
    }
    assert Linear(8, {"up": 3}).weight_shapes("gate_up") == {"up.weight": (3, 8)}


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_stand_side_by_side_in_the_order_of_the_parts(rows, dtype):
    torch.manual_seed(0)
    weights = {"q": torch.randn(6, 32), "k": torch.randn(2, 32), "v": torch.randn(2, 32)}
    biases = {name: torch.randn(weight.shape[0]) for name, weight in weights.items()}
    tensors = {}
    for name, weight in weights.items():
        tensors[f"{name}.weight"] = bytes_of(weight)
        tensors[f"{name}.bias"] = bytes_of(biases[name][:, None])
    parts = {name: weight.shape[0] for name, weight in weights.items()}
    linear = filled(Linear(32, parts, bias=True), "qkv", tensors, dtype=dtype)
    x = torch.randn(rows, 32).to(dtype)
    expected = torch.cat(
        [
            F.linear(x.double(), weights[n].to(dtype).double(), biases[n].to(dtype).double())
            for n in weights
        ],
        dim=-1,
    )
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(linear(x).double(), expected, rtol=tolerance, atol=tolerance)
    assert len(linear.storages) == 1


def test_parts_in_different_block_types_are_multiplied_together():
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((8, 64), dtype=np.float32) for name in ("a", "b", "c")}
    kinds = {"a": "Q4_0", "b": "Q8_0", "c": "Q5_1"}
    packed = {
        name: gguf.quants.quantize(weights[name], gguf.GGMLQuantizationType[kind])
        for name, kind in kinds.items()
    }
    dense = [
        gguf.quants.dequantize(packed[name], gguf.GGMLQuantizationType[kind])
        for name, kind in kinds.items()
    ]
    linear = filled(
        Linear(64, dict.fromkeys(weights, 8)),
        "abc",
        {f"{name}.weight": torch.from_numpy(data) for name, data in packed.items()},
        {f"{name}.weight": FORMATS[kind] for name, kind in kinds.items()},
    )
    x = torch.randn(5, 64)
    expected = x.double() @ torch.from_numpy(np.concatenate(dense)).double().T
    torch.testing.assert_close(linear(x).double(), expected, rtol=1e-5, atol=1e-5)
