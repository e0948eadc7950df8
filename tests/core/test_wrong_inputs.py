"""Every wrong input that a user is likely to give, and the words that answer it.

Each goes through the same door as a right one: what found it is not the point, only that it is
found before anything runs, and said with what was found, what was expected and the next step.
"""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ferrule.errors import (
    CheckpointError,
    ConfigError,
    LoadError,
    MatchError,
    OptionError,
    OutOfMemoryError,
)
from ferrule.llm import LLM

Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def refused(kind, path, **options) -> str:
    """All that is said when this is opened, message and hint."""
    with pytest.raises(kind) as caught:
        LLM(path, devices="cpu", **options)
    return str(caught.value)


def test_no_such_path_names_what_is_near(tiny_llama):
    said = refused(CheckpointError, str(tiny_llama)[:-1])
    assert "tiny-llam" in said
    assert str(tiny_llama) in said


def test_an_empty_directory_says_what_belongs_there(tmp_path):
    (tmp_path / "nothing").mkdir()
    assert "safetensors" in refused(CheckpointError, tmp_path / "nothing")


def test_a_truncated_file_says_how_much_is_missing(tiny_llama):
    file = tiny_llama / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    said = refused(CheckpointError, tiny_llama)
    assert "model.safetensors" in said
    assert "1000 bytes" in said.replace(",", "")


def test_a_corrupt_gguf_header_is_answered_at_once(tmp_path):
    file = tmp_path / "bad.gguf"
    # 43 bytes that promise 2^62 metadata keys.
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 2**62) + bytes(19))
    said = refused(CheckpointError, file)
    assert str(file) in said
    assert f"{2**62:,} metadata pairs" in said


def test_an_index_that_names_a_missing_shard_says_which(tiny_llama):
    tensors = load_file(tiny_llama / "model.safetensors")
    shard, missing = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    (tiny_llama / "model.safetensors").unlink()
    save_file({n: t for n, t in tensors.items() if ".1." not in n}, tiny_llama / shard)
    weight_map = {name: missing if ".1." in name else shard for name in tensors}
    index = tiny_llama / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert missing in refused(CheckpointError, tiny_llama)


def test_pickle_files_are_refused_with_the_way_to_convert(tiny_llama):
    (tiny_llama / "model.safetensors").rename(tiny_llama / "pytorch_model.bin")
    said = refused(CheckpointError, tiny_llama)
    assert "pytorch_model.bin" in said
    assert "save_pretrained" in said


def test_an_unknown_architecture_lists_the_installed_and_the_nearest(tiny_llama):
    change_config(tiny_llama, model_type="mistrall", architectures=["MistrallForCausalLM"])
    said = refused(MatchError, tiny_llama)
    assert "mistrall" in said
    assert "llama" in said
    assert "qwen2" in said
    assert "mistral" in said.replace("mistrall", "")


def test_one_missing_tensor_is_named(tiny_llama, change_tensors):
    change_tensors(tiny_llama, drop=[Q_PROJ])
    said = refused(LoadError, tiny_llama)
    assert "missing (1):" in said
    assert Q_PROJ in said


def test_one_surplus_tensor_is_named(tiny_llama, change_tensors):
    change_tensors(tiny_llama, add={"model.layers.0.mlp.gate.weight": np.zeros((2, 2), "f4")})
    said = refused(LoadError, tiny_llama)
    assert "not taken (1):" in said
    assert "model.layers.0.mlp.gate.weight" in said


def test_a_wrong_shape_is_named_with_both_shapes(tiny_llama, change_tensors):
    change_tensors(tiny_llama, add={Q_PROJ: np.zeros((64, 32), "f4")})
    said = refused(LoadError, tiny_llama)
    assert f"{Q_PROJ}: [64, 32] in the file, [64, 64] expected" in said


def test_all_that_does_not_fit_is_said_at_once_with_near_misses(tiny_llama, change_tensors):
    change_tensors(
        tiny_llama,
        drop=[Q_PROJ],
        add={
            Q_PROJ.replace("q_proj", "q_project"): np.zeros((64, 64), "f4"),
            "model.norm.weight": np.ones(65, "f4"),
        },
    )
    said = refused(LoadError, tiny_llama)
    assert "missing (1):" in said
    assert "not taken (1):" in said
    assert "of another shape (1):" in said
    assert f"{Q_PROJ} (near: {Q_PROJ.replace('q_proj', 'q_project')})" in said


def test_a_context_longer_than_the_models_names_both(tiny_llama):
    said = refused(OptionError, tiny_llama, max_length=257)
    assert "257" in said
    assert "256" in said


def test_an_unknown_config_key_is_named(tiny_llama):
    change_config(tiny_llama, attn_logit_softcapping=50.0)
    assert "attn_logit_softcapping = 50.0" in refused(ConfigError, tiny_llama)


def test_a_cache_that_does_not_fit_says_what_would(tiny_llama):
    said = refused(
        OutOfMemoryError, tiny_llama, num_kv_blocks=3, kv_cache_page_size=16, max_length=256
    )
    assert "A context of 256 tokens" in said
    assert "--max-length 48 would fit" in said


def test_weights_that_do_not_fit_say_so_before_they_are_read(tiny_llama, monkeypatch):
    monkeypatch.setattr("ferrule.weight_memory.free_memory", lambda device: 1024)
    said = refused(OutOfMemoryError, tiny_llama)
    assert "The weights need" in said
    assert "0 MiB are free on cpu" in said


def test_an_encoding_that_the_file_does_not_hold_names_both(tiny_llama):
    said = refused(CheckpointError, tiny_llama, quantization_encoding="q4_k")
    assert "q4_k" in said.lower()
    assert "F32" in said


@pytest.mark.parametrize("batch", [{"max_batch_size": 8, "max_batch_input_tokens": 4}])
def test_a_step_too_small_for_its_batch_is_refused(tiny_llama, batch):
    assert "4 tokens cannot hold" in refused(OptionError, tiny_llama, **batch)


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
