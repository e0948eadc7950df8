"""The Meta-names plugin, loaded as a file, against the same model under Hugging Face's names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from ferrule.checkpoint.open import open_checkpoint
from ferrule.errors import ConfigError, MatchError
from ferrule.matching import match
from ferrule.plugins import Plugins, discover

FILE = Path(__file__).parents[2] / "contrib" / "ferrule-meta-names" / "ferrule_meta_names.py"

PARAMS = {
    "dim": 16,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "vocab_size": -1,
    "multiple_of": 8,
    "ffn_dim_multiplier": 1.3,
}

NAMES = {
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "lm_head": "output",
    "model.layers": "layers",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
}


@pytest.fixture(scope="module")
def built_in():
    return tuple(plugin for plugin in discover().plugins if plugin.distribution == "ferrule")


@pytest.fixture(scope="module")
def plugins(built_in):
    (mine,) = (plugin for plugin in discover([FILE]).plugins if str(FILE) in plugin.distribution)
    return Plugins((*built_in, mine))


@pytest.fixture
def weights():
    """A tiny Llama of transformers, under its own names."""
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=32,
        tie_word_embeddings=False,
    )
    return {name: data.numpy() for name, data in LlamaForCausalLM(config).state_dict().items()}


def to_meta(weights):
    """Names and rows as Meta has them: the inverse of transformers' convert_llama_weights_to_hf."""
    out = {}
    for name, data in weights.items():
        for old, new in NAMES.items():
            name = name.replace(old, new)
        if (heads := {"wq": 4, "wk": 2}.get(name.split(".")[-2])) is not None:
            rows = data.reshape(heads, 2, data.shape[0] // heads // 2, -1)
            data = np.ascontiguousarray(rows.swapaxes(1, 2).reshape(data.shape))
        out[name] = data
    return out | {"rope.freqs": np.ones(2, "<f4")}


@pytest.fixture
def write(tmp_path, weights):
    def make(config, file="params.json", drop=()):
        stored = {name: data for name, data in to_meta(weights).items() if name not in drop}
        save_file(stored, tmp_path / "model.safetensors")
        (tmp_path / file).write_text(json.dumps(config))
        return open_checkpoint(str(tmp_path))

    return make


def test_f3_without_the_plugin_the_error_says_what_is_missing(write, built_in):
    with pytest.raises(MatchError) as error:
        match(write(PARAMS), Plugins(built_in))
    text = str(error.value)
    assert "layers.0.attention" in text
    assert "a weight adapter plugin of ten lines fixes this" in text


def test_f3_names_and_rows_become_hugging_faces(write, plugins, weights):
    found = match(write(PARAMS), plugins)
    assert [adapter.name for adapter in found.adapters] == ["meta"]
    assert set(found.checkpoint.tensors) == set(weights)
    for name, data in weights.items():
        assert np.array_equal(found.read(name).view("<f4").reshape(data.shape), data), name
    assert found.ignored == {"rope.freqs": "meta: rope.freqs"}


def test_f3_params_become_a_config(write, plugins):
    found = match(write(PARAMS), plugins)
    assert found.architecture.name == "llama"
    config = found.config
    assert (config.hidden_size, config.num_layers, config.head_dim) == (16, 2, 4)
    assert (config.num_heads, config.num_kv_heads) == (4, 2)
    assert (config.vocab_size, config.intermediate_size) == (32, 24)  # from the shapes
    assert (config.rms_norm_eps, config.rope.theta) == (1e-5, 500000.0)
    assert not config.tie_word_embeddings


def test_f3_a_config_json_counts_as_it_is(write, plugins):
    config = {
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_theta": 7.0,
    }
    found = match(write(config, "config.json"), plugins)
    assert found.config.rope.theta == 7.0


def test_f4_a_mistral_release_has_a_window(write, plugins):
    found = match(write({**PARAMS, "head_dim": 4, "hidden_dim": 24, "sliding_window": 9}), plugins)
    assert found.architecture.name == "mistral"
    assert found.config.windows == (9, 9)


def test_f3_a_tied_head_is_left_out(write, plugins):
    assert match(write(PARAMS, drop={"output.weight"}), plugins).config.tie_word_embeddings


@pytest.mark.parametrize("extra", [{"use_scaled_rope": True}, {"moe": {"num_experts": 8}}])
def test_params_that_do_not_say_enough_are_refused(write, plugins, extra):
    with pytest.raises(ConfigError, match=next(iter(extra))) as error:
        match(write(PARAMS | extra), plugins)
    assert "config.json" in error.value.hint


def test_params_that_are_off_are_accepted(write, plugins):
    assert match(write(PARAMS | {"use_scaled_rope": False}), plugins).config.num_layers == 2
