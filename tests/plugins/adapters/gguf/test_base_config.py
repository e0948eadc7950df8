from __future__ import annotations

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ferrule.errors import ConfigError
from ferrule.matching import match

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}


def llama3_divisors(theta=10000.0):
    """What transformers divides the four frequencies of a head of eight by."""
    rope = {**LLAMA3, "rope_theta": theta}
    config = LlamaConfig(head_dim=8, rope_parameters=rope, max_position_embeddings=256)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = theta ** -(np.arange(0, 8, 2) / 8)
    return (plain / scaled.numpy()).astype("<f4")


@pytest.fixture
def under(llama_gguf, plugins, config):
    """Matches the GGUF under a config.json with some keys changed (Ellipsis takes one out)."""

    def make(changes=(), metadata=(), more=()):
        base = {k: v for k, v in {**config, **dict(changes)}.items() if v is not ...}
        return match(llama_gguf(metadata, more, base_config=base), plugins)

    return make


def test_the_models_config_counts(under):
    found = under({"max_position_embeddings": 128, "eos_token_id": [7, 8], "head_dim": ...})
    assert found.config.max_position_embeddings == 128
    assert found.checkpoint.config["eos_token_id"] == [7, 8]
    assert found.checkpoint.config["bos_token_id"] == 1  # the file's, where the config is silent
    assert "base_config" not in found.checkpoint.config


def test_numbers_that_the_config_leaves_out_are_the_files(under):
    found = under({"num_key_value_heads": ..., "rms_norm_eps": ..., "rope_theta": ...})
    assert found.config.num_kv_heads == 1
    assert found.config.rms_norm_eps == 1e-5
    assert found.config.rope.theta == 10000.0


def test_c1_scaling_without_a_base_takes_the_files_base(under):
    scaling = {"rope_theta": ..., "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    rope = under(scaling, {"llama.rope.freq_base": 5e5}).config.rope
    assert (rope.type, rope.theta) == ("linear", 5e5)


def test_mistral_weights_may_be_stored_as_llama(under):
    found = under({"model_type": "mistral", "sliding_window": None})
    assert found.architecture.name == "mistral"
    assert found.config.windows == (None, None)


def test_e5_a_grown_vocabulary_follows_the_file(under):
    found = under({"vocab_size": 12})
    assert found.config.vocab_size == 16
    assert any("vocab_size is 12" in note for note in found.notes)


def test_c1_rope_parameters_are_found_too(under):
    found = under(
        {"rope_theta": ..., "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    )
    assert found.config.rope.theta == 10000.0


def test_the_config_may_stretch_what_the_file_does_not(under):
    found = under({"rope_scaling": {"rope_type": "linear", "factor": 2.0}})
    assert found.config.rope.type == "linear"


@pytest.mark.parametrize(
    ("changes", "metadata", "message"),
    [
        ({"hidden_size": 16}, {}, "hidden_size is 16 in the model's config and 8 in the GGUF"),
        ({"num_key_value_heads": 2}, {}, "num_key_value_heads is 2 .* and 1"),
        ({"rms_norm_eps": 1e-6}, {}, "rms_norm_eps is 1e-06 .* and 1e-05"),
        ({"rope_theta": 5e5}, {}, "rope's rope_theta is 500000"),
        (
            {"rope_theta": ..., "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
            {},
            "rope's rope_theta is 500000",
        ),
        ({"model_type": "qwen2"}, {}, "model_type is qwen2 .* and llama"),
        (
            {},
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0},
            "rope's type is default .* and linear",
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 4.0}},
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0},
            r"rope's factor is 4\.0 .* and 2\.0",
        ),
    ],
)
def test_a_contradiction_is_an_error_naming_both(under, changes, metadata, message):
    with pytest.raises(ConfigError, match=message):
        under(changes, metadata)


def test_all_contradictions_are_named_at_once(under):
    with pytest.raises(ConfigError) as error:
        under({"hidden_size": 16, "num_hidden_layers": 3})
    assert "hidden_size" in error.value.message
    assert "num_hidden_layers" in error.value.message
    assert "the/model" in error.value.message


@pytest.fixture
def under_llama3(under, tensors):
    """One head of eight channels, so that there are four frequencies."""
    for layer in range(2):
        for part in "kv":
            name = f"model.layers.{layer}.self_attn.{part}_proj.weight"
            tensors[name] = np.ones((8, 8), "<f4")
    metadata = {
        "llama.attention.head_count": 1,
        "llama.attention.head_count_kv": 1,
        "llama.attention.key_length": 8,
        "llama.rope.dimension_count": 8,
    }
    changes = {"num_attention_heads": 1, "head_dim": 8}

    def make(rope_scaling):
        factors = {"rope_freqs.weight": llama3_divisors()}
        return under({**changes, "rope_scaling": rope_scaling}, metadata, factors)

    return make


def test_f7_factors_that_are_the_configs_scaling_are_applied_once(under_llama3):
    rope = under_llama3(LLAMA3).config.rope
    assert rope.type == "llama3"
    assert rope.freq_factors is None


@pytest.mark.parametrize("scaling", [None, {**LLAMA3, "factor": 32.0}, {"type": "llama3"}])
def test_f7_factors_that_are_not_the_configs_scaling_are_an_error(under_llama3, scaling):
    with pytest.raises(ConfigError, match=r"rope_freqs\.weight in the file is not the scaling"):
        under_llama3(scaling)


def test_the_references_factors_are_not_trivial():
    factors = llama3_divisors()
    assert factors[0] == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(8.0, rel=1e-3)
    assert 1.0 < factors[1] < 8.0
