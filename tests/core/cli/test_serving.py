from __future__ import annotations

import json
from contextlib import closing

import pytest

from ferrule.cli.engine_start import launch_engine
from ferrule.cli.progress import start_display
from ferrule.cli.server_flags import server_flags
from ferrule.cli.serving import beneath_adapter, model_name, serve_model
from ferrule.engine.options import EngineOptions
from ferrule.errors import FerruleError


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("my-finetune/", "my-finetune"),
        ("model.Q4_K_M.gguf", "model.Q4_K_M"),
        ("big-00001-of-00003.gguf", "big"),
    ],
)
def test_a_model_is_called_after_its_directory_or_file(tmp_path, name, served):
    path = tmp_path / name
    path.mkdir() if name.endswith("/") else path.touch()
    assert model_name(str(path)) == served


def test_a_model_of_the_hub_is_called_after_its_repository():
    assert model_name("org/name@v1.0") == "org/name"


def test_the_directory_one_stands_in_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_name(".") == tmp_path.name


@pytest.fixture
def warnings_of(tiny_llama, capsys):
    """What is said of the tiny checkpoint before an engine that cannot start is started."""

    def run():
        server, options = server_flags(port=0), EngineOptions(model=str(tiny_llama), devices="no")
        with closing(launch_engine("cpu")) as launch, pytest.raises(FerruleError):
            serve_model(launch, options, server)
        return [line for line in capsys.readouterr().err.splitlines() if "warning" in line]

    return run


def test_a_missing_template_is_a_warning(tiny_llama, warnings_of):
    (tiny_llama / "tokenizer_config.json").unlink()
    (warning,) = warnings_of()
    assert "no chat template" in warning
    assert "--chat-template FILE" in warning


def test_a_missing_tokenizer_is_a_warning(tiny_llama, warnings_of):
    (tiny_llama / "tokenizer_config.json").unlink()
    (tiny_llama / "tokenizer.json").unlink()
    (warning,) = warnings_of()
    assert "no tokenizer" in warning
    assert "return_token_ids" in warning


def test_an_adapter_by_itself_is_served_over_its_base(tiny_llama):
    folder = tiny_llama.with_name("tuned")
    folder.mkdir()
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(tiny_llama)}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "adapter_model.safetensors").touch()
    asked = EngineOptions(model=str(folder), lora_paths=(("other", "elsewhere"),))
    with start_display() as display:
        options, name = beneath_adapter(asked, display)
        assert (options.model, name, options.enable_lora) == (str(tiny_llama), "tiny-llama", True)
        assert options.lora_paths == (("tuned", str(folder)), ("other", "elsewhere"))
        options, name = beneath_adapter(asked, display, name="mine")
        assert (options.lora_paths[0], name) == (("mine", str(folder)), "tiny-llama")
        plain = EngineOptions(model=str(tiny_llama))
        assert beneath_adapter(plain, display, name="n") == (plain, "n")
