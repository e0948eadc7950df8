"""Configs as fine-tuning tools leave them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ferrule.checkpoint import Checkpoint, TensorInfo
from ferrule.errors import ConfigError
from ferrule.hf_config import decoder_config, is_family, windows_by_layer

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128,
    "vocab_size": 100,
}


def tensor(name, *shape, format="BF16"):
    return TensorInfo(name=name, shape=shape, format=format, file=Path("x"), offset=0, nbytes=0)


def read(config=None, tensors=(), **options):
    infos = [tensor("model.embed_tokens.weight", 100, 64), tensor("lm_head.weight", 100, 64)]
    checkpoint = Checkpoint(
        location="here",
        kind="safetensors",
        config={**CONFIG, **(config or {})},
        tensors={info.name: info for info in (*infos, *tensors)},
    )
    return decoder_config(checkpoint, defaults={}, **options)


def test_c5_head_dim_absent_or_null_is_hidden_over_heads_and_present_is_itself():
    assert read().head_dim == 16
    assert read({"head_dim": None}).head_dim == 16
    assert read({"head_dim": 32}).head_dim == 32


def test_c6_a_trainers_class_name_is_recognised_without_a_model_type():
    matches = is_family("llama", "LlamaForCausalLM")
    assert matches({"model_type": "llama"})
    assert matches({"architectures": ["PeftLlamaForCausalLM"]})
    assert matches({"model_type": None, "architectures": ["LlamaForCausalLMBiased"]})
    assert not matches({"model_type": "mistral", "architectures": ["LlamaForCausalLM"]})
    assert not matches({"architectures": None})


def test_an_unknown_key_that_may_change_arithmetic_is_refused_by_name_and_value():
    with pytest.raises(ConfigError, match="embedding_multiplier = 12"):
        read({"embedding_multiplier": 12})


def test_unknown_keys_without_a_value_and_bookkeeping_are_left_alone():
    config = read(
        {
            "attention_multiplier": None,
            "use_qk_norm": False,
            "unsloth_version": "2024.9",
            "_name_or_path": "x/y",
            "transformers_version": "5.23.0",
            "auto_map": {"AutoModel": "code.py"},
        }
    )
    assert config.hidden_size == 64


def test_keys_that_the_architecture_reads_itself_are_known():
    assert read({"sliding_window": 8}, known={"sliding_window"}).num_layers == 2


def test_another_activation_is_refused():
    with pytest.raises(ConfigError, match="hidden_act is 'gelu'"):
        read({"hidden_act": "gelu"})


@pytest.mark.parametrize(("value", "words"), [(None, "no 'hidden_size'"), ("64", "'64'")])
def test_a_missing_or_wrong_number_is_named(value, words):
    with pytest.raises(ConfigError, match=words):
        read({"hidden_size": value})


def test_e1_e2_a_head_of_its_own_counts_whatever_the_config_says():
    config = read({"tie_word_embeddings": True})
    assert not config.tie_word_embeddings
    assert "lm_head of its own" in config.notes[0]


def test_e4_no_head_in_the_file_ties_and_says_so():
    checkpoint = Checkpoint(
        location="here",
        kind="safetensors",
        config=CONFIG,
        tensors={"model.embed_tokens.weight": tensor("model.embed_tokens.weight", 100, 64)},
    )
    config = decoder_config(checkpoint, defaults={})
    assert config.tie_word_embeddings
    assert "the embedding is the head" in config.notes[0]


def test_e5_the_embeddings_rows_are_the_vocabulary():
    config = read({"vocab_size": 98})
    assert config.vocab_size == 100
    assert "98 in the config" in config.notes[0]


def test_f17_biases_that_the_file_has_are_taken_and_reported():
    config = read(tensors=[tensor("model.layers.0.self_attn.q_proj.bias", 64)])
    assert config.qkv_bias
    assert not config.o_bias
    assert "self_attn.q_proj biases" in config.notes[0]


def test_c12_a_leftover_quantization_config_on_a_16_bit_file_does_not_matter():
    left_over = {"quantization_config": {"quant_method": "bitsandbytes"}}
    assert read(left_over).hidden_size == 64
    with pytest.raises(ConfigError, match=r"quantised \(bitsandbytes; its tensors are BF16, U8"):
        read(left_over, [tensor("model.layers.0.mlp.up_proj.weight", 9, format="U8")])


QWEN_WINDOWS = {"use_sliding_window": True, "sliding_window": 9}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({**QWEN_WINDOWS, "max_window_layers": 1}, (None, 9, 9)),
        ({**QWEN_WINDOWS, "max_window_layers": 3}, (None, None, None)),
        ({"sliding_window": 9, "max_window_layers": 0}, (None, None, None)),
        (
            {
                **QWEN_WINDOWS,
                "max_window_layers": 3,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            },
            (9, None, 9),
        ),
    ],
    ids=["from a layer up", "from beyond the last", "not used", "layer_types win"],
)
def test_windows_by_layer(config, expected):
    assert windows_by_layer(config, 3) == expected


@pytest.mark.parametrize("types", [["full_attention"], ["full_attention"] * 2 + ["linear"]])
def test_layer_types_of_another_number_or_kind_are_refused(types):
    with pytest.raises(ConfigError, match="expected 3 of full_attention or sliding_attention"):
        windows_by_layer({"layer_types": types}, 3)
