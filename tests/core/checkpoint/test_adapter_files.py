from __future__ import annotations

import pytest

from ferrule.checkpoint.adapter_files import find_adapter_files
from ferrule.errors import CheckpointError


@pytest.fixture
def folder(tmp_path):
    """``folder("a", "b")`` has empty files of these names."""

    def make(*names):
        for name in names:
            (tmp_path / name).write_bytes(b"")
        return str(tmp_path)

    return make


@pytest.mark.parametrize(
    ("names", "container", "weights"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "peft", "adapter_model.safetensors"),
        (["lora.safetensors", "params.json"], "mistral", "lora.safetensors"),
        (["lora-f16.gguf", "README.md"], "gguf", "lora-f16.gguf"),
    ],
)
def test_the_files_show_the_container(folder, names, container, weights):
    found = find_adapter_files(folder(*names))
    assert (found.container, found.weights.name) == (container, weights)


def test_a_pickle_is_refused_with_the_code_that_converts_it(folder):
    where = folder("adapter_config.json", "adapter_model.bin")
    with pytest.raises(CheckpointError, match="runs whatever code it holds") as error:
        find_adapter_files(where)
    assert "weights_only=True" in error.value.hint
    assert f"{where}/adapter_model.safetensors" in error.value.hint


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["adapter_config.json"], "adapter_config.json and no adapter_model.safetensors"),
        (["adapter_model.safetensors"], "no adapter_config.json beside adapter_model.safetensors"),
        (["a.gguf", "b.gguf"], "It has: a.gguf, b.gguf"),
        ([], "It has: nothing"),
    ],
)
def test_what_is_missing_is_told(folder, names, text):
    with pytest.raises(CheckpointError, match=text):
        find_adapter_files(folder(*names))


def test_a_single_file_is_no_adapter_unless_gguf(folder, tmp_path):
    folder("adapter_model.safetensors", "mine.gguf")
    with pytest.raises(CheckpointError, match=r"only a \.gguf file"):
        find_adapter_files(str(tmp_path / "adapter_model.safetensors"))
    assert find_adapter_files(str(tmp_path / "mine.gguf")).container == "gguf"


def test_a_repository_of_the_hub_is_downloaded(hub):
    hub.repos["org/lora"] = {
        "adapter_config.json": b"{}",
        "adapter_model.safetensors": b"weights",
        "optimizer.pt": b"state",
        "checkpoint-10/adapter_model.safetensors": b"older",
    }
    found = find_adapter_files("org/lora")
    assert found.weights.read_bytes() == b"weights"
    assert hub.fetched() == {"adapter_config.json", "adapter_model.safetensors"}


def test_a_gguf_of_the_hub(hub):
    hub.repos["org/lora"] = {"q8/mine.gguf": b"gguf"}
    found = find_adapter_files("org/lora/q8/mine.gguf")
    assert found.container == "gguf"
    assert found.weights.read_bytes() == b"gguf"


def test_a_model_of_the_hub_is_no_adapter(hub):
    hub.repos["org/model"] = {"config.json": b"{}", "model.safetensors": b"weights"}
    with pytest.raises(CheckpointError, match=r"no file lora\.safetensors"):
        find_adapter_files("org/model")
