import json

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from ferrule.checkpoint.open import open_checkpoint
from ferrule.errors import CheckpointError, OptionError


@pytest.fixture
def small_gguf(write_gguf, tmp_path):
    def fill(writer):
        writer.add_block_count(1)
        writer.add_eos_token_id(2)
        writer.add_token_list(["a", "b", "</s>"])

    return write_gguf(tmp_path / "gguf" / "q8.gguf", {"w": np.ones((2, 4), np.float16)}, fill)


def test_directory_with_config_and_weights_opens(save_model, tmp_path):
    folder = save_model(tmp_path / "model")
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.location == str(folder)
    assert checkpoint.kind == "safetensors"
    assert checkpoint.config == {"model_type": "llama"}
    assert checkpoint.generation_config == {"eos_token_id": 2}
    assert checkpoint.files.keys() == {"config.json", "generation_config.json", "tokenizer.json"}
    assert checkpoint.metadata == {}
    info = checkpoint.tensors["model.embed_tokens.weight"]
    assert (info.shape, info.format, info.nbytes) == ((4, 2), "F32", 32)


def test_sharded_directory_opens_without_its_stale_shards(save_model, save_safetensors, tmp_path):
    folder = save_model(tmp_path)
    (folder / "model.safetensors").rename(folder / "stale.safetensors")
    save_safetensors(folder / "part-1.safetensors", a=(2,))
    save_safetensors(folder / "part-2.safetensors", b=(2,))
    weight_map = {"a": "part-1.safetensors", "b": "part-2.safetensors"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert open_checkpoint(str(folder)).tensors.keys() == {"a", "b"}


def test_shards_without_an_index_open_together(save_model, save_safetensors, tmp_path):
    folder = save_model(tmp_path)
    (folder / "model.safetensors").unlink()
    save_safetensors(folder / "model-1-of-2.safetensors", a=(2,))
    save_safetensors(folder / "model-2-of-2.safetensors", b=(2,))
    assert open_checkpoint(str(folder)).tensors.keys() == {"a", "b"}


def test_consolidated_files_open_with_params_as_their_config(save_safetensors, tmp_path):
    save_safetensors(tmp_path / "consolidated.safetensors", tok_embeddings__weight=(4, 2))
    (tmp_path / "params.json").write_text('{"dim": 2}')
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.config == {"dim": 2}
    assert checkpoint.tensors.keys() == {"tok_embeddings.weight"}


def test_tensor_parallel_parts_are_not_taken_for_shards(save_safetensors, tmp_path):
    for part in (0, 1):
        save_safetensors(tmp_path / f"consolidated.0{part}.safetensors", w=(4, 2))
    (tmp_path / "params.json").write_text("{}")
    with pytest.raises(CheckpointError, match="Tensor 'w' is in both") as caught:
        open_checkpoint(str(tmp_path))
    assert "tensor-parallel" in caught.value.hint


def test_consolidated_copy_beside_the_shards_is_not_loaded_too(
    save_model, save_safetensors, tmp_path
):
    folder = save_model(tmp_path)
    save_safetensors(folder / "consolidated.safetensors", tok_embeddings__weight=(4, 2))
    (folder / "params.json").write_text("{}")
    assert open_checkpoint(str(folder)).tensors.keys() == {"model.embed_tokens.weight"}


def test_gguf_file_opens_from_its_own_metadata(small_gguf):
    checkpoint = open_checkpoint(str(small_gguf))
    assert checkpoint.kind == "gguf"
    assert checkpoint.config["llama.block_count"] == 1
    assert "tokenizer.ggml.tokens" not in checkpoint.config
    assert checkpoint.metadata["tokenizer.ggml.tokens"] == ["a", "b", "</s>"]
    assert checkpoint.generation_config == {"eos_token_id": [2]}
    assert checkpoint.files == {}
    assert checkpoint.read("w").view(np.float16).tolist() == [1.0] * 8


def test_directory_with_one_gguf_file_opens_it(small_gguf):
    (small_gguf.parent / "tokenizer.json").write_text("{}")
    checkpoint = open_checkpoint(str(small_gguf.parent))
    assert checkpoint.kind == "gguf"
    assert checkpoint.files.keys() == {"tokenizer.json"}


def test_gguf_weights_keep_their_config_and_get_the_models_beside_it(
    save_model, small_gguf, tmp_path
):
    folder = save_model(tmp_path / "base")
    checkpoint = open_checkpoint(str(folder), weight_path=str(small_gguf))
    assert checkpoint.kind == "gguf"
    assert checkpoint.config["general.architecture"] == "llama"
    assert checkpoint.config["base_config"] == {"model_type": "llama"}
    assert "base_config" not in checkpoint.metadata
    assert checkpoint.files.keys() == {"config.json", "tokenizer.json"}
    assert checkpoint.generation_config == {"eos_token_id": [2]}
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    checkpoint = open_checkpoint(str(folder), weight_path=str(small_gguf))
    assert checkpoint.generation_config == {"eos_token_id": 7}


def test_safetensors_weights_come_under_the_models_config(save_model, save_safetensors, tmp_path):
    folder = save_model(tmp_path / "base")
    mine = save_safetensors(tmp_path / "mine.safetensors", a=(2,))
    checkpoint = open_checkpoint(str(folder), weight_path=str(mine))
    assert checkpoint.config == {"model_type": "llama"}
    assert checkpoint.tensors.keys() == {"a"}


def test_weights_of_another_directory_come_under_the_models_config(
    save_model, save_safetensors, tmp_path
):
    folder = save_model(tmp_path / "base")
    (folder / "model.safetensors").unlink()
    save_safetensors(tmp_path / "mine" / "model.safetensors", a=(2,))
    checkpoint = open_checkpoint(str(folder), weight_path=str(tmp_path / "mine"))
    assert checkpoint.tensors.keys() == {"a"}


def test_file_of_the_models_directory_may_be_named_alone(save_model, write_gguf, tmp_path):
    folder = save_model(tmp_path / "base")
    write_gguf(folder / "q8.gguf", {"w": np.ones(4, np.float32)})
    assert open_checkpoint(str(folder), weight_path="q8.gguf").kind == "gguf"


@pytest.mark.parametrize(("encoding", "fits"), [("float32", True), ("q4_k_m", False)])
def test_stated_encoding_is_compared_with_the_file(save_model, tmp_path, encoding, fits):
    folder = str(save_model(tmp_path))
    if fits:
        assert open_checkpoint(folder, quantization_encoding=encoding).kind == "safetensors"
    else:
        with pytest.raises(CheckpointError, match=r"means Q4_K weights.*mainly F32"):
            open_checkpoint(folder, quantization_encoding=encoding)


def test_unknown_encoding_is_an_error_before_anything_is_opened():
    with pytest.raises(OptionError, match="q3"):
        open_checkpoint("/nowhere", quantization_encoding="q3")


def error_of(*args, **kwargs) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(*args, **kwargs)
    return caught.value


def test_no_such_path_suggests_what_is_spelled_alike(save_model, tmp_path):
    save_model(tmp_path / "llama-merged")
    error = error_of(f"{tmp_path}/llama-mergd")
    assert error.message == f"No such file or directory: {tmp_path}/llama-mergd"
    assert f"{tmp_path}/llama-merged" in error.hint


def test_empty_directory_is_called_empty(tmp_path):
    assert error_of(str(tmp_path)).message == f"{tmp_path} is empty."


def test_truncated_weights_are_named(save_model, tmp_path):
    file = save_model(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    assert "5 bytes are missing" in error_of(str(tmp_path)).message


def test_directory_without_a_config_is_an_error(save_model, tmp_path):
    (save_model(tmp_path) / "config.json").unlink()
    assert "no config.json" in error_of(str(tmp_path)).message


def test_broken_config_is_named_with_line_and_column(save_model, tmp_path):
    (save_model(tmp_path) / "config.json").write_text('{\n"model_type": }')
    assert "line 2, column 15" in error_of(str(tmp_path)).message


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickle_files_are_refused_wherever_they_are_named(save_model, tmp_path, name):
    folder = save_model(tmp_path / "base")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    for error in (
        error_of(str(folder)),
        error_of(str(folder / name)),
        error_of(str(folder), weight_path=str(folder / name)),
        error_of(str(folder), weight_path=f"org/repo/{name}"),
    ):
        assert "pickle" in error.message
        assert name in error.message
        assert "safetensors" in error.hint


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_single_file_that_is_no_gguf_is_an_error(save_model, tmp_path, name):
    error = error_of(str(save_model(tmp_path) / name))
    assert "only a .gguf file is a model by itself" in error.message
    assert f"ferrule serve {tmp_path}" in error.hint


def test_weight_path_under_a_single_file_is_an_error(small_gguf):
    error = error_of(str(small_gguf), weight_path=str(small_gguf))
    assert "no config and tokenizer" in error.message


def test_weight_path_of_another_kind_is_an_error(save_model, tmp_path):
    folder = save_model(tmp_path)
    assert "no weight file" in error_of(str(folder), weight_path="config.json").message


def test_gguf_adapter_is_not_taken_for_a_model(write_gguf, tmp_path):
    file = write_gguf(tmp_path / "lora.gguf", fill=lambda writer: writer.add_type("adapter"))
    assert "a LoRA adapter" in error_of(str(file)).message


def test_code_of_a_checkpoint_is_never_run(save_model, tmp_path):
    folder = save_model(tmp_path)
    config = {"model_type": "x", "auto_map": {"AutoConfig": "modeling.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert open_checkpoint(str(folder)).config == config
    assert not (tmp_path / "ran").exists()


def test_hub_location_is_downloaded_and_opened(hub, hub_model):
    hub.repos["org/model"] = hub_model
    checkpoint = open_checkpoint("org/model@v1")
    assert checkpoint.location == "org/model@v1"
    assert checkpoint.tensors.keys() == {"model.embed_tokens.weight"}
    assert checkpoint.files.keys() == {"config.json", "tokenizer.json"}


@pytest.mark.parametrize("weight_path", ["gguf/q8.gguf", "org/other/gguf/q8.gguf"])
def test_weights_of_the_hub_come_under_config_of_the_hub(hub, hub_model, small_gguf, weight_path):
    weights = {"gguf/q8.gguf": small_gguf.read_bytes()}
    hub.repos["org/model"] = hub_model | weights
    hub.repos["org/other"] = weights
    checkpoint = open_checkpoint("org/model", weight_path=weight_path)
    assert checkpoint.config["base_config"] == {"model_type": "llama"}
    assert checkpoint.tensors.keys() == {"w"}
    assert hub.fetched() == {"config.json", "tokenizer.json", "gguf/q8.gguf"}


def test_weights_of_the_hub_come_under_local_config(hub, save_model, small_gguf, tmp_path):
    hub.repos["org/other"] = {"q8.gguf": small_gguf.read_bytes()}
    folder = save_model(tmp_path / "base")
    assert open_checkpoint(str(folder), weight_path="org/other/q8.gguf").kind == "gguf"


def test_missing_repository_suggests_a_directory_spelled_alike(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "llama-merged").mkdir(parents=True)
    error = error_of("models/llama-mergd")
    assert "There is no model repository models/llama-mergd" in error.message
    assert "Did you mean models/llama-merged?" in error.hint


def test_missing_repository_with_nothing_alike_here_keeps_its_hint(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = error_of("org/model")
    assert "There is no model repository org/model" in error.message
    assert "Did you mean" not in error.hint


def test_an_encoding_chooses_among_a_directorys_gguf_files(small_gguf, write_gguf):
    small_gguf.rename(small_gguf.with_name("m-F16.gguf"))
    other = small_gguf.with_name("m-Q8_0.gguf")
    write_gguf(other, {"w": np.ones((2, 34), np.uint8)}, lambda writer: None, {"w": Kind.Q8_0})
    folder = str(small_gguf.parent)
    for encoding, name in (("q8_0", "m-Q8_0.gguf"), ("float16", "m-F16.gguf")):
        checkpoint = open_checkpoint(folder, quantization_encoding=encoding)
        assert {info.file.name for info in checkpoint.tensors.values()} == {name}
    with pytest.raises(CheckpointError, match="named after q4_0"):
        open_checkpoint(folder, quantization_encoding="q4_0")
