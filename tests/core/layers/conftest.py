"""Layers with weights in them, without a checkpoint."""

from __future__ import annotations

import pytest
import torch

from ferrule import ModelConfig, RopeConfig
from ferrule.layers.rope import rotate
from ferrule.layers.weights import TakesWeights
from ferrule.quantization.formats import FORMATS

SIZES = {
    "vocab_size": 37,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
    "rope": RopeConfig(rotary_dim=8),
    "windows": (None, None, None),
}


@pytest.fixture
def config():
    """``config(**changes)``: the numbers of a small decoder; heads are wider than the stream."""
    return lambda **changes: ModelConfig(**{**SIZES, **changes})


def named_shapes(module, path="") -> dict[str, tuple[int, ...]]:
    """Every tensor that a module and its parts ask a checkpoint for."""
    shapes = {}
    for name, part in module.named_modules(prefix=path):
        if isinstance(part, TakesWeights):
            shapes |= part.weight_shapes(name)
        for local, parameter in part.named_parameters(recurse=False):
            shapes[f"{name}.{local}"] = tuple(parameter.shape)
    return shapes


@pytest.fixture
def shapes_of():
    return named_shapes


@pytest.fixture
def fill():
    """``fill(module, tensors, path)`` writes each tensor of a float32 state dict to its place."""

    def write_all(module, tensors, path="", dtype=torch.float32):
        assert named_shapes(module, path) == {n: tuple(t.shape) for n, t in tensors.items()}
        for name, part in module.named_modules(prefix=path):
            if isinstance(part, TakesWeights):
                names = part.weight_shapes(name)
                formats = dict.fromkeys(names, FORMATS["F32"])
                part.allocate(formats, dtype=dtype, device=torch.device("cpu"))
                for one, format in formats.items():
                    rows = tensors[one].contiguous().view(torch.uint8)
                    part.write(one, rows.view(len(tensors[one]), -1), format)
                part.finish()
            for local, _ in list(part.named_parameters(recurse=False)):
                data = tensors[f"{name}.{local}"].to(dtype)
                setattr(part, local, torch.nn.Parameter(data, requires_grad=False))
        return module

    return write_all


def attend_causally(q, k, v, rotation=None):
    """Plain causal attention of one sequence, by its formula."""
    if rotation is not None:
        q, k = rotate(q, rotation), rotate(k, rotation)
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    later = torch.ones(len(q), len(q), dtype=torch.bool).triu(1)
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(later, -torch.inf).softmax(-1), v)


@pytest.fixture
def causal():
    return attend_causally
