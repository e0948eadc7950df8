import ast

import pytest

from ferrule.checkpoint.refused_weights import no_weights, refused_pickle


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "last.ckpt"]
)
def test_pickle_files_are_refused_with_the_way_to_convert_them(tmp_path, name):
    error = no_weights("./mine", tmp_path, [name, "config.json", "training_args.bin"])
    assert f"pickle files only ({name})" in error.message
    assert "from_pretrained('./mine'" in error.hint
    assert "save_pretrained('./mine-safetensors', safe_serialization=True)" in error.hint


@pytest.mark.parametrize("is_model", [True, False])
def test_the_way_to_convert_is_four_lines_of_python(is_model):
    snippet = refused_pickle("it's here", ["a.bin"], is_model=is_model).hint.split("\n\n")[1]
    assert len(ast.parse(snippet).body) == 4


def test_pickle_without_a_config_is_converted_as_a_mapping_of_tensors(tmp_path):
    error = no_weights("mine/", tmp_path, ["model.pt"])
    assert "torch.load('mine/model.pt', map_location=\"cpu\", weights_only=True)" in error.hint


def test_what_a_trainer_pickles_is_not_taken_for_weights(tmp_path):
    names = ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "scaler.pt"]
    assert "holds no weights" in no_weights("here", tmp_path, names).message


def test_adapter_is_named_with_its_base_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    error = no_weights("./lora", tmp_path, ["adapter_config.json", "adapter_model.bin"])
    assert "LoRA adapter" in error.message
    assert "base model is org/base" in error.message
    assert "`ferrule merge org/base ./lora ./lora-merged`" in error.hint


def test_adapter_without_a_named_base_is_still_an_adapter(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "base model is not named" in no_weights("x", tmp_path, ["adapter_config.json"]).message


def test_distributed_checkpoints_are_named(tmp_path):
    assert ".distcp" in no_weights("x", tmp_path, ["__0_0.distcp", ".metadata"]).message
    assert "DeepSpeed" in no_weights("x", tmp_path, ["zero_to_fp32.py", "latest"]).message


def test_empty_directory_is_called_empty(tmp_path):
    assert no_weights("here", tmp_path, []).message == "here is empty."


def test_checkpoints_one_level_down_are_suggested(tmp_path):
    for step in (500, 900):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").touch()
    error = no_weights("out", tmp_path, ["checkpoint-500", "checkpoint-900", "trainer_state.json"])
    assert error.hint == "Did you mean out/checkpoint-900?"
