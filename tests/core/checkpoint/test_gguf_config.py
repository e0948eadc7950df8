from pathlib import Path

import pytest

from ferrule.checkpoint.gguf_config import (
    gguf_config,
    gguf_generation_config,
    refuse_other_kinds,
)
from ferrule.errors import CheckpointError

FILE = Path("model.gguf")


def test_config_has_scalars_and_arrays_about_layers_but_no_vocabulary():
    metadata = {
        "general.architecture": "llama",
        "llama.attention.head_count": [8, 8, 4],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["a", "b"],
        "some.table": list(range(5000)),
    }
    assert gguf_config(metadata) == {
        "general.architecture": "llama",
        "llama.attention.head_count": [8, 8, 4],
        "tokenizer.ggml.model": "gpt2",
    }


def test_generation_ends_at_every_end_token_once():
    metadata = {
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 9,
        "tokenizer.ggml.eot_token_id": 7,
        "tokenizer.ggml.eom_token_id": 9,
    }
    expected = {"eos_token_id": [9, 7], "bos_token_id": 1}
    assert gguf_generation_config(FILE, metadata) == expected


def test_token_zero_is_a_token():
    metadata = {"tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 0}
    assert gguf_generation_config(FILE, metadata) == {"eos_token_id": [0], "bos_token_id": 0}


def test_nothing_said_is_an_empty_generation_config():
    assert gguf_generation_config(FILE, {}) == {}


def test_token_id_that_is_no_number_is_an_error():
    with pytest.raises(CheckpointError, match="eos_token_id is '2'"):
        gguf_generation_config(FILE, {"tokenizer.ggml.eos_token_id": "2"})


@pytest.mark.parametrize(
    ("kind", "what"),
    [("adapter", "a LoRA adapter"), ("mmproj", "projector"), ("imatrix", "matrix")],
)
def test_gguf_files_of_other_kinds_are_refused(kind, what):
    with pytest.raises(CheckpointError, match=what):
        refuse_other_kinds(FILE, {"general.type": kind})


@pytest.mark.parametrize("metadata", [{"general.type": "model"}, {}])
def test_models_are_not_refused(metadata):
    assert refuse_other_kinds(FILE, metadata) is None
