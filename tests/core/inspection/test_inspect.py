from __future__ import annotations

import json

import pytest
from safetensors import safe_open

from ferrule.engine.options import EngineOptions
from ferrule.errors import CheckpointError, MatchError
from ferrule.inspection import Inspection, inspect_checkpoint


def inspect(folder, **options) -> Inspection:
    return inspect_checkpoint(EngineOptions(model=str(folder), devices="cpu", **options))


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def stored_tensors(folder):
    """Name to shape, by safetensors' own reader."""
    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def test_every_tensor_of_the_file_has_a_destination(tiny_llama):
    report = inspect(tiny_llama)
    found = {each.stored: each.shape for each in report.destinations}
    assert found == stored_tensors(tiny_llama)
    homes = {each.name: each.module for each in report.destinations}
    assert homes["model.layers.1.self_attn.k_proj.weight"] == "model.layers.1.self_attn.qkv_proj"
    assert homes["model.norm.weight"] == "model.norm"
    assert report.problems == ""


def test_the_numbers_are_those_that_are_computed(tiny_llama):
    edit_config(
        tiny_llama,
        rope_scaling={
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    )
    report = inspect(tiny_llama)
    (rope,) = report.ropes
    assert (rope["type"], rope["factor"], rope["rotary_dim"]) == ("llama3", 8.0, 16)
    assert rope["original_max_position_embeddings"] == 64
    assert [(each.num_heads, each.num_kv_heads, each.head_dim) for each in report.layers] == [
        (4, 2, 16)
    ] * 2
    assert report.config["vocab_size"] == 272
    assert report.context_length == 256
    assert (report.dtype, report.device) == ("float32", "cpu")


def test_windows_are_told_by_layer(tiny_llama):
    edit_config(
        tiny_llama,
        model_type="mistral",
        architectures=["MistralForCausalLM"],
        sliding_window=32,
    )
    report = inspect(tiny_llama)
    assert report.choices[-1].name == "mistral"
    assert [each.window for each in report.layers] == [32, 32]


def test_missing_surplus_and_misshaped_tensors_are_part_of_the_report(tiny_llama, change_tensors):
    import numpy as np

    change_tensors(
        tiny_llama,
        drop=["model.norm.weight"],
        add={
            "model.layers.0.extra.weight": np.zeros((2, 2), np.float32),
            "model.layers.0.mlp.up_proj.weight": np.zeros((64, 64), np.float32),
        },
    )
    report = inspect(tiny_llama)
    assert report.missing == ("model.norm.weight",)
    assert report.surplus == ("model.layers.0.extra.weight",)
    assert report.misshaped == {"model.layers.0.mlp.up_proj.weight": ((64, 64), (128, 64))}
    for name in (*report.missing, *report.surplus, *report.misshaped):
        assert name in report.problems
    assert report.hint
    homes = {each.name: each.module for each in report.destinations}
    assert homes["model.layers.0.extra.weight"] is None


def test_what_the_file_overrules_is_noted(tiny_llama):
    edit_config(tiny_llama, tie_word_embeddings=False)
    report = inspect(tiny_llama)
    assert report.config["tie_word_embeddings"] is True
    assert any("tie_word_embeddings" in note for note in report.notes)


def test_a_choice_can_be_overruled(tiny_llama):
    edit_config(tiny_llama, model_type="unheard-of", architectures=["UnheardOfForCausalLM"])
    with pytest.raises(MatchError, match="unheard-of"):
        inspect(tiny_llama)
    report = inspect(tiny_llama, architecture="llama")
    assert report.choices[-1].name == "llama"


def test_the_dtype_that_was_asked_for_counts(tiny_llama):
    report = inspect(tiny_llama, dtype="bfloat16")
    assert report.dtype == "bfloat16"
    assert report.memory.weight_bytes * 2 == report.memory.stored_bytes


def test_what_cannot_be_opened_is_an_error(tmp_path):
    with pytest.raises(CheckpointError):
        inspect(tmp_path / "nothing")
