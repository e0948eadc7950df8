from __future__ import annotations

import numpy as np
import pytest

from ferrule.errors import LoadError, MatchError
from ferrule.matching import match

LAYER = "model.layers.{}"


def test_canonical_names_stay(tensors, config, store, assert_reads_as):
    found = assert_reads_as(store(tensors, config), tensors)
    assert [adapter.name for adapter in found.adapters] == ["huggingface"]
    assert found.notes == ()


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.0.self_attn.rotary_emb.cos_cached",
        "model.layers.0.self_attn.rotary_emb.sin_cached",
        "model.rotary_emb.inv_freq",
        "rotary_pos_emb.inv_freq",
        "model.layers.1.attention.masked_bias",
        "model.layers.1.attn.bias",
    ],
)
def test_w11_computed_buffers_are_left_out_and_reported(
    tensors, config, store, assert_reads_as, name
):
    stored = store({**tensors, name: np.ones(4, "<f4")}, config)
    found = assert_reads_as(stored, tensors)
    assert list(found.ignored) == [name]
    assert "1 tensor left out by huggingface" in found.notes[0]


def test_f17_biases_are_kept(tensors, config, store, assert_reads_as):
    for part in "qkv":
        rows = tensors[f"model.layers.0.self_attn.{part}_proj.weight"].shape[0]
        for layer in range(2):
            name = f"model.layers.{layer}.self_attn.{part}_proj.bias"
            tensors[name] = np.arange(rows, dtype="<f4")
    found = assert_reads_as(store(tensors, config), tensors)
    assert found.config.qkv_bias
    assert any("biases" in note for note in found.notes)


@pytest.mark.parametrize(
    "leftover",
    [
        "model.layers.0.mlp.down_proj.scales",  # F12
        "model.layers.0.mlp.down_proj.weight.absmax",  # F13
        "model.layers.0.mlp.down_proj.weight_scale",  # F14
        "model.layers.0.self_attn.q_norm.weight",  # F18
        "model.layers.7.mlp.down_proj.weight",  # F16: more layers than the config says
    ],
)
def test_f12_to_f18_names_that_a_model_may_not_take_reach_the_accounting(
    tensors, config, store, plugins, leftover
):
    found = match(store({**tensors, leftover: np.ones(4, "<f4")}, config), plugins)
    assert leftover in found.checkpoint.tensors


@pytest.mark.parametrize("fused", ["self_attn.qkv_proj", "self_attn.W_pack"])
@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_f2_fused_qkv_is_split(tensors, config, store, assert_reads_as, fused, kind):
    if kind == "bias":
        for layer in range(2):
            for part, rows in (("q", 8), ("k", 4), ("v", 4)):
                name = f"model.layers.{layer}.self_attn.{part}_proj.bias"
                tensors[name] = np.arange(rows, dtype="<f4") + layer
    stored = dict(tensors)
    for layer in range(2):
        for each in {"weight", kind}:
            prefix = f"model.layers.{layer}.self_attn"
            parts = [stored.pop(f"{prefix}.{part}_proj.{each}") for part in "qkv"]
            stored[f"model.layers.{layer}.{fused}.{each}"] = np.concatenate(parts)
    found = assert_reads_as(store(stored, config), tensors)
    assert [adapter.name for adapter in found.adapters] == ["fused-projections", "huggingface"]


def test_f2_fused_gate_and_up_are_split(tensors, config, store, assert_reads_as):
    stored = dict(tensors)
    for layer in range(2):
        prefix = f"model.layers.{layer}.mlp"
        parts = [stored.pop(f"{prefix}.{part}_proj.weight") for part in ("gate", "up")]
        stored[f"{prefix}.gate_up_proj.weight"] = np.concatenate(parts)
    assert_reads_as(store(stored, config), tensors)


def test_f2_fused_rows_that_the_config_does_not_explain_are_an_error(
    tensors, config, store, plugins
):
    tensors["model.layers.0.self_attn.qkv_proj.weight"] = np.ones((15, 8), "<f4")
    with pytest.raises(LoadError, match=r"qkv_proj\.weight of shape \[15, 8\].*8 \+ 4 \+ 4"):
        match(store(tensors, config), plugins)


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("F2", ["transformer.h.0.attn.c_attn.weight", "transformer.wte.weight"]),
        ("F3", ["tok_embeddings.weight", "layers.0.attention.wq.weight", "norm.weight"]),
        ("F10", ["decoder.layers.0.self_attention.linear_qkv.weight", "output_layer.weight"]),
        ("F11", ["tok_embeddings.weight", "layers.0.attn.q_proj.weight", "norm.scale"]),
    ],
)
def test_f2_to_f11_other_dialects_are_refused_with_the_way_out(config, store, plugins, case, names):
    stored = store({name: np.ones(4, "<f4") for name in names}, config)
    with pytest.raises(MatchError) as error:
        match(stored, plugins)
    text = str(error.value)
    assert names[0] in text
    assert "huggingface (ferrule" in text
    assert "docs/tutorial/first-adapter" in text
