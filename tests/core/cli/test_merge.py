from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file


@pytest.fixture
def tiny_lora(tiny_llama, tmp_path):
    """Rank 2, scale 3, on q_proj of both layers."""
    folder = tmp_path / "tiny-lora"
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(tiny_llama),
        "r": 2,
        "lora_alpha": 6,
        "target_modules": ["q_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(3)
    tensors = {}
    for layer in range(2):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = rng.normal(size=(2, 64)).astype(np.float32)
        tensors[f"{name}.lora_B.weight"] = rng.normal(size=(64, 2)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_the_merged_model_is_written_and_can_be_served(ferrule, tiny_llama, tiny_lora, tmp_path):
    out = tmp_path / "out"
    result = ferrule("merge", tiny_llama, tiny_lora, out)
    assert result.exit_code == 0, result.output
    assert "rank 2, scale 3, 2 modules, 0.0 MB in self_attn.q_proj" in result.stderr
    assert "20 tensors, 2 modules changed" in result.stderr
    name = "layers.1.self_attn.q_proj"
    lora = load_file(tiny_lora / "adapter_model.safetensors")
    a, b = (lora[f"base_model.model.model.{name}.lora_{part}.weight"] for part in "AB")
    base = load_file(tiny_llama / "model.safetensors")[f"model.{name}.weight"]
    found = load_file(out / "model.safetensors")[f"model.{name}.weight"]
    np.testing.assert_allclose(found, base + 3 * b @ a, atol=1e-5)
    assert ferrule("inspect", out).exit_code == 0


def test_what_does_not_fit_is_an_error_and_writes_nothing(ferrule, tiny_llama, tiny_lora, tmp_path):
    config = tiny_lora / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "target_modules": ["v_proj"]}))
    result = ferrule("merge", tiny_llama, tiny_lora, tmp_path / "out")
    assert result.exit_code == 1
    assert "does not fit the base model" in result.stderr
    assert not (tmp_path / "out").exists()


def test_shards(ferrule, tiny_llama, tiny_lora, tmp_path):
    result = ferrule("merge", tiny_llama, tiny_lora, tmp_path / "out", "--max-shard-size", "0.0001")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2


def test_inspect_shows_an_adapter_and_finds_its_base(ferrule, tiny_llama, tiny_lora):
    result = ferrule("inspect", tiny_lora)
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert f"base {tiny_llama}" in lines
    assert "self_attn.q_proj 2 0-1 2 3 lora 2 KiB" in lines


def test_inspect_holds_an_adapter_against_another_base(ferrule, tiny_llama, tiny_lora, tmp_path):
    moved = shutil.move(tiny_llama, tmp_path / "moved")
    assert ferrule("inspect", tiny_lora).exit_code == 1
    report = json.loads(ferrule("inspect", tiny_lora, "--base", moved, "--json").stdout)
    assert report["num_modules"] == 2
    assert report["base"] == str(moved)
    assert report["trained_on"] == str(tiny_llama)
    assert report["touched"][0]["scale"] == 3.0


def test_a_model_with_a_base_is_no_adapter(ferrule, tiny_llama):
    result = ferrule("inspect", tiny_llama, "--base", tiny_llama)
    assert result.exit_code == 1
    assert "is no LoRA adapter" in result.stderr
