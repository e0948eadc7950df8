"""What an engine is made of: cache, context and blocks, and what it says of them."""

from __future__ import annotations

import msgspec
import pytest
import torch
from safetensors.numpy import load_file

from ferrule.build import build_engine
from ferrule.engine.options import EngineOptions
from ferrule.runtime.kv_cache import KVCache


@pytest.fixture
def options(tiny_llama):
    return EngineOptions(
        model=str(tiny_llama), devices="cpu", max_batch_size=3, kv_cache_page_size=16
    )


@pytest.fixture
def caches(monkeypatch):
    """Every KV cache that is made."""
    made = []

    class Kept(KVCache):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr("ferrule.assembly.KVCache", Kept)
    return made


def changed(options, **changes):
    return msgspec.structs.replace(options, **changes)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_engine_says_what_it_is(options, caches, dtype):
    _, info = build_engine(changed(options, dtype=dtype))
    assert (info.architecture, info.weight_adapter) == ("llama", "huggingface")
    assert (info.dtype, info.device) == (dtype, "cpu")
    assert (info.max_length, info.vocab_size) == (256, 272)
    # As many blocks as three sequences of the whole context can fill.
    assert (info.num_blocks, info.block_size, info.max_batch_size) == (3 * 256 // 16, 16, 3)
    stored = load_file(f"{options.model}/model.safetensors")
    size = getattr(torch, dtype).itemsize
    assert info.weight_bytes == sum(data.size for data in stored.values()) * size
    (cache,) = caches
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    assert info.kv_bytes == sum(tensor.nbytes for tensor in tensors)
    assert {tensor.dtype for tensor in tensors} == {getattr(torch, dtype)}
    assert info.notes == []


@pytest.mark.parametrize(
    ("asked", "served", "blocks"),
    [
        ({"num_kv_blocks": 2}, 32, 2),
        ({"num_kv_blocks": 15}, 240, 15),
        ({"num_kv_blocks": 16}, 256, 16),
        ({"num_kv_blocks": 99}, 256, 99),
        ({"max_length": 40}, 40, 9),
        ({"max_length": 40, "num_kv_blocks": 3}, 40, 3),
        ({"max_length": 2}, 2, 3),
        ({"kv_cache_page_size": 512}, 256, 3),
    ],
)
def test_context_and_blocks_follow_from_what_was_asked_for_and_fits(
    options, caches, asked, served, blocks
):
    _, info = build_engine(changed(options, **asked))
    assert (info.max_length, info.num_blocks) == (served, blocks)
    assert caches[0].num_blocks == blocks


def test_a_context_that_shrinks_unasked_is_noted(options):
    _, info = build_engine(changed(options, num_kv_blocks=2))
    (note,) = info.notes
    assert "256 tokens" in note
    assert "32 are served" in note
    assert build_engine(changed(options, num_kv_blocks=2, max_length=32))[1].notes == []
