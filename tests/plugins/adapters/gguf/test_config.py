from __future__ import annotations

import pytest

from ferrule.errors import ConfigError
from ferrule.matching import match


@pytest.fixture
def config_of(llama_gguf, plugins):
    return lambda changes=(): match(llama_gguf(changes), plugins).checkpoint.config


def test_metadata_becomes_hugging_faces_keys(config_of):
    assert config_of() == {
        "model_type": "llama",
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "intermediate_size": 12,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "rms_norm_eps": 1e-5,  # the decimal that was meant, not its 32-bit neighbour
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "vocab_size": 16,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "rope_theta": 10000.0,
    }


def test_e5_the_embeddings_rows_are_the_vocabulary(config_of):
    assert config_of({"llama.vocab_size": 99})["vocab_size"] == 16


def test_key_value_heads_default_to_heads(tensors, config_of):
    for layer in range(2):
        name = f"model.layers.{layer}.self_attn.k_proj.weight"
        tensors[name] = tensors[f"model.layers.{layer}.self_attn.q_proj.weight"]
    assert config_of({"llama.attention.head_count_kv": None})["num_key_value_heads"] == 2


def test_c5_the_files_head_size_counts(config_of):
    config = config_of({"llama.attention.key_length": 2, "llama.attention.value_length": 2})
    assert config["head_dim"] == 2


def test_values_by_layer_that_are_equal_are_one(config_of):
    config = config_of(
        {"llama.attention.head_count_kv": [1, 1], "llama.feed_forward_length": [12, 12]}
    )
    assert config["num_key_value_heads"] == 1
    assert config["intermediate_size"] == 12


def test_c8_a_llama_with_a_window_is_a_mistral(llama_gguf, plugins):
    found = match(llama_gguf({"llama.attention.sliding_window": 32}), plugins)
    assert found.architecture.name == "mistral"
    assert found.config.windows == (32, 32)


def test_c8_a_window_that_does_not_say_its_layers_is_refused(qwen2_gguf, plugins):
    with pytest.raises(ConfigError, match="does not say which layers"):
        match(qwen2_gguf({"qwen2.attention.sliding_window": 32}), plugins)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llama.attention.head_count_kv": [1, 2]}, "head_count_kv .* differs by layer"),
        ({"llama.block_count": None}, r"lacks llama\.block_count"),
        ({"llama.context_length": None}, r"lacks llama\.context_length"),
        ({"llama.block_count": "2"}, r"block_count is '2'; expected a whole number"),
        ({"llama.attention.layer_norm_rms_epsilon": True}, "expected a number"),
        ({"llama.attention.value_length": 2}, "value_length .* is 2; expected 4"),
        ({"llama.attention.causal": False}, "causal .* is False; expected True"),
        ({"llama.expert_count": 8}, r"not understood: llama\.expert_count = 8"),
        ({"llama.logit_scale": 0.5}, r"llama\.logit_scale = 0\.5"),
        ({"llama.attention.scale": 1.0}, r"llama\.attention\.scale = 1\.0"),
        ({"llama.unheard_of": "x"}, r"llama\.unheard_of = x"),
        ({"llama.final_logit_softcapping": 30.0, "llama.swin_norm": True}, "softcapping.*swin"),
        ({"llama.rope.dimension_sections": [2, 1, 1, 0]}, "dimension_sections"),
    ],
)
def test_what_changes_arithmetic_and_is_not_understood_is_refused(
    llama_gguf, plugins, changes, message
):
    with pytest.raises(ConfigError, match=message):
        match(llama_gguf(changes), plugins)


@pytest.mark.parametrize(
    "changes",
    [
        {"llama.expert_count": 0, "llama.expert_used_count": 0},
        {"llama.logit_scale": 1.0},
        {"llama.use_parallel_residual": False},
        {"llama.attention.sliding_window": 0},
        {"llama.attention.clamp_kqv": 0.0, "llama.attention.scale": 0.0},
        {"llama.tensor_data_layout": "Meta AI original pth"},
        {"llama.attention.causal": True},
        {"general.name": "anything", "general.sampling.temp": 0.6, "quantize.imatrix.file": "x"},
        {"llama.rope.scaling.finetuned": True},
        {"llama.rope.scaling.yarn_ext_factor": 1.0},
    ],
)
def test_what_changes_nothing_is_accepted(config_of, changes):
    assert config_of(changes) == config_of()


def test_a_dialect_that_was_asked_for_refuses_another_architectures_rows(llama_gguf, plugins):
    with pytest.raises(ConfigError, match=r"'llama'; this weight adapter reads .* 'qwen2'"):
        match(llama_gguf(), plugins, weight_adapter="gguf-qwen2")
