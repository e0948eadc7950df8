"""Formats by tensor, as llama.cpp's quantiser prints them for real models."""

from __future__ import annotations

import gguf
import pytest

from ferrule.errors import OptionError
from ferrule.quantize.recipe import RECIPES, find_recipe, format_of

FILE_TYPES = {"q8_0": "MOSTLY_Q8_0", "q6_k": "MOSTLY_Q6_K", "q4_k_m": "MOSTLY_Q4_K_M"}
FILE_TYPES |= {"q5_k_m": "MOSTLY_Q5_K_M", "bf16": "MOSTLY_BF16", "f16": "MOSTLY_F16"}
FILE_TYPES |= {name: f"MOSTLY_{name.upper()}" for name in ("q4_0", "q4_1", "q5_0", "q5_1")}


def chosen(name, recipe, shape=(4096, 4096), layers=32, tied=False):
    return format_of(name, shape, find_recipe(recipe), num_layers=layers, is_tied=tied)


def test_file_types_are_llama_cpps():
    for name, recipe in RECIPES.items():
        assert recipe.file_type == gguf.LlamaFileType[FILE_TYPES[name]]


def test_q4_k_m_of_an_8b_model():
    # From the published Q4_K_M files of Llama 3.1 8B: 16 of 32 layers have more bits.
    more = {0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31}
    for layer in range(32):
        expected = "Q6_K" if layer in more else "Q4_K"
        assert chosen(f"blk.{layer}.attn_v.weight", "q4_k_m") == expected
        assert chosen(f"blk.{layer}.ffn_down.weight", "q4_k_m") == expected
        assert chosen(f"blk.{layer}.ffn_up.weight", "q4_k_m") == "Q4_K"
    assert chosen("token_embd.weight", "q4_k_m") == "Q4_K"
    assert chosen("output.weight", "q4_k_m") == "Q6_K"


@pytest.mark.parametrize(
    ("recipe", "head"), [("q4_0", "Q6_K"), ("q5_1", "Q6_K"), ("q8_0", "Q8_0"), ("bf16", "BF16")]
)
def test_heads_have_more_bits_also_where_they_are_the_embedding(recipe, head):
    assert chosen("output.weight", recipe) == head
    assert chosen("token_embd.weight", recipe, tied=True) == head
    assert chosen("token_embd.weight", recipe) == recipe.upper()


@pytest.mark.parametrize(
    ("recipe", "cols", "expected"),
    [
        ("q4_k_m", 576, "Q5_0"),
        ("q5_k_m", 576, "Q5_1"),
        ("q6_k", 576, "Q8_0"),
        ("q4_0", 576, "Q4_0"),
        ("q4_k_m", 80, "F16"),
        ("q8_0", 80, "F16"),
        ("bf16", 80, "BF16"),
    ],
)
def test_rows_that_are_no_whole_blocks(recipe, cols, expected):
    assert chosen("blk.5.ffn_up.weight", recipe, shape=(64, cols)) == expected


def test_norms_and_biases_stay_float32():
    assert chosen("blk.0.attn_norm.weight", "q4_0", shape=(4096,)) == "F32"
    assert chosen("blk.0.attn_q.bias", "bf16", shape=(4096,)) == "F32"


def test_an_unknown_recipe_lists_the_known():
    with pytest.raises(OptionError, match=r"q3_k.*q4_k_m"):
        find_recipe("q3_k")
