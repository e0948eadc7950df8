from __future__ import annotations

import pytest

from ferrule.lora.fingerprint import base_notes, same_model


@pytest.mark.parametrize(
    "name",
    [
        "org/Model-8B",
        "other/model-8b@v2",
        "/here/Model-8B/",
        "unsloth/Model-8B-bnb-4bit",
        "unsloth/Model-8B-unsloth-bnb-4bit",
        "x/Model-8B-GGUF",
    ],
)
def test_L19_L20_copies_of_a_model_are_the_same(name):
    assert same_model(name) == "model-8b"


def test_L20_another_name_is_a_note_not_an_error(tiny_llama, open_base):
    base = open_base(tiny_llama)
    assert base_notes("", base) == []
    assert base_notes("org/Tiny-Llama", base) == []
    assert base_notes("org/tiny-llama-bnb-4bit", base) == []
    (note,) = base_notes("org/mistral-7b", base)
    assert "org/mistral-7b" in note
    assert str(tiny_llama) in note
