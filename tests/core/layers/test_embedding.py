"""Token embeddings against indexing and a plain matrix product."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from ferrule.layers import Embedding
from ferrule.quantization.formats import FORMATS

VOCAB, HIDDEN = 50, 32
CPU = torch.device("cpu")


@pytest.fixture
def table():
    return torch.randn(VOCAB, HIDDEN, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_token_gets_its_row_rounded_once(fill, table, tied, dtype):
    embedding = fill(Embedding(VOCAB, HIDDEN, tied=tied), {"e.weight": table}, "e", dtype=dtype)
    tokens = torch.tensor([[0, VOCAB - 1, 7], [7, 7, 3]])
    assert torch.equal(embedding(tokens), table.to(dtype)[tokens])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_a_tied_embedding_is_the_head_as_well(fill, table, dtype, tolerance):
    head = fill(Embedding(VOCAB, HIDDEN, tied=True), {"e.weight": table}, "e", dtype=dtype)
    hidden = torch.randn(3, HIDDEN).to(dtype)
    expected = hidden.double() @ table.to(dtype).double().T
    logits = head.logits(hidden)
    assert logits.shape == (3, VOCAB)
    torch.testing.assert_close(logits.double(), expected, rtol=tolerance, atol=tolerance * 10)


def test_one_weight_is_asked_for():
    assert Embedding(VOCAB, HIDDEN).weight_shapes("model.embed_tokens") == {
        "model.embed_tokens.weight": (VOCAB, HIDDEN)
    }


def test_rows_of_a_block_format_are_what_the_gguf_package_reads(table):
    packed = gguf.quants.quantize(table.numpy(), gguf.GGMLQuantizationType.Q8_0)
    embedding = Embedding(VOCAB, HIDDEN)
    (name,) = embedding.weight_shapes("e")
    embedding.allocate({name: FORMATS["Q8_0"]}, dtype=torch.float32, device=CPU)
    embedding.write(name, torch.from_numpy(packed), FORMATS["Q8_0"])
    embedding.finish()
    tokens = torch.tensor([9, 0, 49])
    expected = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)[tokens]
    np.testing.assert_array_equal(embedding(tokens).numpy(), expected)
