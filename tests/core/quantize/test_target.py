"""Names and orders of rows, as llama.cpp's converter gives them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ferrule.checkpoint.open import open_checkpoint
from ferrule.errors import ConfigError
from ferrule.matching import match
from ferrule.plugins import Plugins
from ferrule.quantize.target import gguf_architecture, places, stored_order


def test_rows_are_turned_as_the_converter_turns_them():
    rows = np.arange(24).reshape(24, 1)
    # LlamaModel.permute of convert_hf_to_gguf.py, for 3 heads.
    expected = rows.reshape(3, 2, 4, 1).swapaxes(1, 2).reshape(24, 1)
    assert np.array_equal(rows[stored_order(3, 24)], expected)


def test_names_and_heads(saved):
    chosen = match(open_checkpoint(str(saved("llama biases"))), Plugins.installed())
    assert gguf_architecture(chosen) == "llama"
    found = places(chosen, "llama")
    assert found["model.embed_tokens.weight"].name == "token_embd.weight"
    assert found["lm_head.weight"].name == "output.weight"
    q, k = (found[f"model.layers.1.self_attn.{part}_proj.bias"] for part in "qk")
    assert (q.name, q.heads, k.name, k.heads) == ("blk.1.attn_q.bias", 4, "blk.1.attn_k.bias", 2)
    assert {each.heads for each in places(chosen, "qwen2").values()} == {0}


def test_another_architecture_is_refused(saved):
    chosen = match(open_checkpoint(str(saved("llama"))), Plugins.installed())
    other = dataclasses.replace(chosen.architecture, name="mamba")
    with pytest.raises(ConfigError, match=r"'mamba' cannot be written.*llama, mistral, qwen2"):
        gguf_architecture(dataclasses.replace(chosen, architecture=other))
