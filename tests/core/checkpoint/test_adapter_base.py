from __future__ import annotations

import json

import gguf
import pytest

from ferrule.checkpoint.adapter_base import find_base, is_adapter
from ferrule.errors import CheckpointError


@pytest.fixture
def adapter(tmp_path):
    """``adapter(base_model_name_or_path=...)`` makes a directory with that in its config."""

    def make(**config):
        folder = tmp_path / "loras" / "mine"
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
        (folder / "adapter_model.safetensors").write_bytes(b"")
        return folder

    return make


def test_C10_a_directory_with_only_an_adapter_is_one(adapter):
    assert is_adapter(str(adapter()))


def test_C10_a_config_beside_it_does_not_make_it_a_model(adapter):
    folder = adapter()
    (folder / "config.json").write_text("{}")
    assert is_adapter(str(folder))
    (folder / "model.safetensors").write_bytes(b"")
    assert not is_adapter(str(folder))


def test_a_model_is_none(tiny_llama, tmp_path):
    assert not is_adapter(str(tiny_llama))
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_string("general.type", "model")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert not is_adapter(str(tmp_path / "model.gguf"))


def test_an_adapter_of_mistral_finetune_is_one(tmp_path):
    (tmp_path / "lora.safetensors").write_bytes(b"")
    (tmp_path / "params.json").write_text("{}")
    assert is_adapter(str(tmp_path))


def test_an_adapter_on_the_hub(hub):
    config = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "revision": "v2"}
    hub.repos["org/lora"] = {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": b"weights",
    }
    assert is_adapter("org/lora")
    assert find_base("org/lora") == "org/base@v2"
    assert hub.fetched() == {"adapter_config.json"}


def test_an_absolute_path(adapter, tiny_llama):
    folder = adapter(base_model_name_or_path=str(tiny_llama))
    assert find_base(str(folder)) == str(tiny_llama)


def test_a_path_from_here_and_one_from_the_adapter(adapter, tiny_llama, monkeypatch):
    folder = adapter(base_model_name_or_path="tiny-llama")
    monkeypatch.chdir(tiny_llama.parent)
    assert find_base(str(folder)) == "tiny-llama"
    monkeypatch.chdir("/")
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "../../tiny-llama"})
    )
    assert find_base(str(folder)) == str(folder / "../../tiny-llama")


def test_a_directory_of_that_name_beside_it(adapter, tiny_llama):
    """The path of the machine that trained it does not exist here; its last part does."""
    folder = adapter(base_model_name_or_path="/scratch/models/tiny-llama")
    beside = tiny_llama.rename(folder.parent / "tiny-llama")
    assert find_base(str(folder)) == str(beside)


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("org/base", "org/base"),
        ("unsloth/llama-3-8b-bnb-4bit", "unsloth/llama-3-8b"),
        ("unsloth/Qwen2.5-7B-unsloth-bnb-4bit", "unsloth/Qwen2.5-7B"),
    ],
)
def test_L19_a_repository_on_the_hub_not_its_bitsandbytes_copy(adapter, named, found):
    assert find_base(str(adapter(base_model_name_or_path=named))) == found


@pytest.mark.parametrize("named", [None, "", "/nowhere/at/all"])
def test_a_base_that_is_not_named_or_not_here(adapter, named):
    with pytest.raises(CheckpointError, match=r"does not name|is not here") as error:
        find_base(str(adapter(base_model_name_or_path=named)))
    assert "--base BASE" in error.value.hint
