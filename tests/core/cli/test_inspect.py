from __future__ import annotations

import json

import pytest


def test_json_has_every_tensor(ferrule, tiny_llama):
    result = ferrule("inspect", tiny_llama, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert len(report["destinations"]) == 20
    assert report["layers"][1]["head_dim"] == 16
    assert report["memory"]["context"] == 256


def test_the_cache_is_reckoned_for_the_context_asked_for(ferrule, tiny_llama):
    report = json.loads(ferrule("inspect", tiny_llama, "--context", "64", "--json").stdout)
    assert report["memory"]["kv_bytes"] == 64 * report["memory"]["kv_bytes_per_token"]


@pytest.mark.parametrize("as_json", [True, False])
def test_tensors_that_do_not_fit_are_shown_and_end_with_1(
    ferrule, tiny_llama, change_tensors, as_json
):
    change_tensors(tiny_llama, drop=["model.norm.weight"])
    result = ferrule("inspect", tiny_llama, *(["--json"] if as_json else []))
    assert result.exit_code == 1
    if as_json:
        assert json.loads(result.stdout)["missing"] == ["model.norm.weight"]
    else:
        assert "model.layers.N" in result.stdout
        assert "missing (1)" in result.stderr


def test_an_unknown_architecture_lists_the_installed_ones(ferrule, tiny_llama):
    path = tiny_llama / "config.json"
    config = {**json.loads(path.read_text()), "model_type": "lama", "architectures": ["Lama"]}
    path.write_text(json.dumps(config))
    result = ferrule("inspect", tiny_llama)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "mistral" in result.stderr
    overruled = ferrule("inspect", tiny_llama, "--architecture", "llama")
    assert overruled.exit_code == 0


@pytest.mark.realmodel
def test_a_real_file_is_explained(ferrule, smollm2):
    report = json.loads(ferrule("inspect", smollm2 / "smollm2-135m.gguf", "--json").stdout)
    assert [each["name"] for each in report["choices"]] == ["gguf-llama", "llama"]
    assert len(report["destinations"]) == 272
    assert report["ropes"][0]["theta"] == 100000
    assert {(each["num_heads"], each["num_kv_heads"]) for each in report["layers"]} == {(9, 3)}
    formats = {each["name"]: each["format"] for each in report["destinations"]}
    assert formats["model.embed_tokens.weight"] == "Q8_0"
    assert formats["model.layers.29.self_attn.q_proj.weight"] == "Q4_1"
