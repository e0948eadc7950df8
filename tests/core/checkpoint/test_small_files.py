import pytest

from ferrule.checkpoint.small_files import (
    find_small_files,
    read_config,
    read_generation_config,
    read_optional_config,
)
from ferrule.errors import CheckpointError


def test_small_files_are_those_that_exist(tmp_path):
    wanted = {"config.json", "tokenizer.json", "tekken.json", "tokenizer.model", "params.json"}
    for name in wanted | {"model.safetensors", "modeling_custom.py", "README.md"}:
        (tmp_path / name).touch()
    (tmp_path / "directory.model").mkdir()
    assert find_small_files(tmp_path) == {name: tmp_path / name for name in wanted}


def test_config_json_comes_before_params_json(tmp_path):
    (tmp_path / "params.json").write_text('{"dim": 64}')
    assert read_config("here", tmp_path) == {"dim": 64}
    (tmp_path / "config.json").write_text('{"hidden_size": 64}')
    assert read_config("here", tmp_path) == {"hidden_size": 64}


def test_missing_config_is_an_error_that_says_what_to_do(tmp_path):
    assert read_optional_config(tmp_path) is None
    with pytest.raises(CheckpointError, match=r"org/x has weights but no config\.json") as caught:
        read_config("org/x", tmp_path)
    assert "--weight-path org/x" in caught.value.hint


def test_generation_config_is_optional(tmp_path):
    assert read_generation_config(tmp_path) == {}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    assert read_generation_config(tmp_path) == {"eos_token_id": [1, 2]}
