"""The model that kernels are compiled with: few layers, the same sizes and formats."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

from ferrule import ModelConfig, RopeConfig
from ferrule.checkpoint.checkpoint import TensorInfo
from ferrule.checkpoint.open import open_checkpoint
from ferrule.engine.options import EngineOptions
from ferrule.kernels.tiles import choose_tiles
from ferrule.layers import Linear
from ferrule.matching import match
from ferrule.plugins import Plugins
from ferrule.precompile import num_layers_of_all_formats, small_config, small_model

CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 199,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CASES = {
    "llama": (LlamaConfig(**SIZES), [None, None]),
    "llama tied": (LlamaConfig(**SIZES, tie_word_embeddings=True), [None, None]),
    "mistral": (MistralConfig(**SIZES, sliding_window=7), [7, 7]),
    "qwen2": (
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=9, max_window_layers=2),
        [None, 9, 9],
    ),
    "qwen2 of one layer": (Qwen2Config(**{**SIZES, "num_hidden_layers": 1}), [None]),
}

CONFIG = ModelConfig(
    vocab_size=199,
    hidden_size=4096,
    intermediate_size=64,
    num_layers=1,
    num_heads=1,
    num_kv_heads=1,
    head_dim=16,
    rms_norm_eps=1e-5,
    max_position_embeddings=64,
    rope=RopeConfig(rotary_dim=16),
    windows=(None,),
)


@pytest.fixture(scope="module", params=CASES)
def chosen_and_windows(request, tmp_path_factory):
    config, windows = CASES[request.param]
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)
    return match(open_checkpoint(str(folder)), Plugins.installed()), windows


def test_there_is_a_layer_for_each_window_and_one_more_of_the_last(chosen_and_windows):
    chosen, windows = chosen_and_windows
    model = small_model(chosen, dtype=torch.bfloat16, device=CPU)
    assert [spec.window for spec in model.attention_specs()] == windows


def test_there_are_as_many_layers_as_show_every_set_of_formats():
    def tensors(*formats):
        named = {
            f"model.layers.{i}.v.weight": TensorInfo(
                name="v", shape=(2, 2), format=format, file=Path("f"), offset=0, nbytes=0
            )
            for i, format in enumerate(formats)
        }
        embedding = replace(named["model.layers.0.v.weight"], format="Q3_K")
        return {"model.embed.weight": embedding, **named}

    assert num_layers_of_all_formats(tensors("BF16", "BF16")) == 1
    assert num_layers_of_all_formats(tensors("Q6_K", "Q6_K", "Q4_K", "Q6_K", "Q4_K")) == 3
    config = replace(CONFIG, num_layers=5, windows=(None,) * 5)
    assert small_config(config, 3).windows == (None, None, None)
    assert small_config(config, 9).windows == (None,) * 5
    assert small_config(config).num_layers == 2


def test_everything_is_allocated_in_the_sizes_of_the_whole_model(chosen_and_windows):
    chosen, _ = chosen_and_windows
    model = small_model(chosen, dtype=torch.float32, device=CPU)
    assert not model.training
    assert all(
        tensor.device == CPU and tensor.dtype is torch.float32 for tensor in model.parameters()
    )
    assert not any(buffer.is_meta for buffer in model.buffers())
    tensors = chosen.checkpoint.tensors
    for path, part in model.named_modules():
        if isinstance(part, Linear):
            stored = [tensors[name].shape for name in part.weight_shapes(path)]
            rows = sum(shape[0] for shape in stored if len(shape) == 2)
            assert [(one.num_rows, one.num_cols) for one in part.storages] == [
                (rows, part.in_features)
            ]
    assert model.model.embed_tokens.storage.num_rows == 199


def test_nothing_of_the_weights_is_read(chosen_and_windows, monkeypatch):
    chosen, _ = chosen_and_windows
    monkeypatch.setattr(type(chosen), "read", lambda *_: pytest.fail("weights were read"))
    small_model(chosen, dtype=torch.bfloat16, device=CPU)


@pytest.mark.parametrize("vocab_size", [199, 32000, 65536, 128256, 151665, 151936])
def test_a_smaller_vocabulary_is_cut_into_products_as_the_whole_one_is(vocab_size):
    config = replace(CONFIG, vocab_size=vocab_size)
    small = small_config(config)
    assert small == replace(config, vocab_size=small.vocab_size)
    assert small.vocab_size <= min(vocab_size, 65536 + 15)
    assert small.vocab_size % 16 == vocab_size % 16
    for num_rows in (1, 2, 8, 16, 17, 32, 64, 65):
        tiles = choose_tiles(num_rows, small.vocab_size, 4096)
        assert tiles == choose_tiles(num_rows, vocab_size, 4096)


def program(tiny_llama, stdin):
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "ferrule.precompile"],
        stdin=stdin,
        stderr=subprocess.PIPE,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        start_new_session=True,
    )


def test_on_a_cpu_nothing_is_compiled(tiny_llama):
    options = EngineOptions(model=str(tiny_llama), devices="cpu")
    with program(tiny_llama, subprocess.PIPE) as process:
        process.stdin.write(b"0 1\n" + msgspec.json.encode(options) + b"\n")
        process.stdin.flush()
        assert process.wait(60) == 0, process.stderr.read()


def test_one_that_is_told_nothing_ends(tiny_llama):
    with program(tiny_llama, subprocess.DEVNULL) as process:
        assert process.wait(60) == 0, process.stderr.read()
