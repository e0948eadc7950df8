"""SmolLM2's published GGUF file against the same weights in Hugging Face's layout."""

from __future__ import annotations

import pytest
import torch

from ferrule.checkpoint.open import open_checkpoint
from ferrule.matching import match
from ferrule.quantization.gguf_blocks import DEQUANTIZERS

pytestmark = pytest.mark.realmodel


@pytest.fixture(scope="module")
def pair(smollm2, plugins):
    gguf = match(open_checkpoint(str(smollm2 / "smollm2-135m.gguf")), plugins)
    dense = match(open_checkpoint(str(smollm2 / "llama")), plugins)
    return gguf, dense


def weights(found, name):
    info = found.checkpoint.tensors[name]
    rows = torch.from_numpy(found.read(name))
    if info.format in DEQUANTIZERS:
        return DEQUANTIZERS[info.format].dequantize(rows)
    dtype = {"F32": torch.float32, "BF16": torch.bfloat16}[info.format]
    return rows.view(dtype).reshape(info.shape).float()


def test_f6_every_tensor_is_the_same_in_both_layouts(pair):
    gguf, dense = pair
    assert set(gguf.checkpoint.tensors) == set(dense.checkpoint.tensors)
    assert {info.format for info in gguf.checkpoint.tensors.values()} == {"Q4_1", "Q8_0", "F32"}
    for name in dense.checkpoint.tensors:
        expected = weights(dense, name)
        # The directory was made of the file's own weights, rounded to bfloat16.
        assert torch.equal(weights(gguf, name).bfloat16().float(), expected), name


def test_f8_both_layouts_are_configured_alike(pair):
    gguf, dense = pair
    assert gguf.config == dense.config
    assert gguf.config.tie_word_embeddings
