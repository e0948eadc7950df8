from __future__ import annotations

import json

import pytest

from ferrule.checkpoint.checkpoint import Checkpoint
from ferrule.errors import ConfigError
from ferrule.frontend.model import served_model
from ferrule.plan import SamplingParams


def checkpoint(tmp_path, tokenizer=None, **fields):
    files = {}
    if tokenizer is not None:
        for name, content in {
            "tokenizer.json": tokenizer._backend.to_str(),
            "tokenizer_config.json": json.dumps(
                {"bos_token": "<s>", "eos_token": "</s>", "chat_template": "{{ messages }}"}
            ),
        }.items():
            files[name] = tmp_path / name
            files[name].write_text(content)
    return Checkpoint(
        location="here", kind="safetensors", tensors={}, files=files, **{"config": {}, **fields}
    )


def test_text_side_is_read_from_the_files(tmp_path, tokenizer):
    stored = checkpoint(
        tmp_path,
        tokenizer,
        config={"eos_token_id": 7},
        generation_config={"temperature": 0.5, "eos_token_id": [9], "max_new_tokens": 64},
    )
    model = served_model(stored, names=["org/name", "short"], created=5)
    assert (model.name, model.names, model.created) == ("org/name", ("org/name", "short"), 5)
    assert model.tokenizer.decode([261]) == "Hello"
    assert model.template is not None
    assert model.sampling == SamplingParams(temperature=0.5)
    assert model.max_tokens == 64
    assert model.eos_ids == (1, 7, 9)
    assert model.notes == ()


def test_checkpoint_without_a_tokenizer_serves_ids(tmp_path):
    model = served_model(checkpoint(tmp_path), names=["ids"], created=0)
    assert (model.tokenizer, model.template, model.eos_ids) == (None, None, ())


def test_own_template_overrules(tmp_path, tokenizer):
    override = tmp_path / "mine.jinja"
    override.write_text("mine")
    model = served_model(
        checkpoint(tmp_path, tokenizer), names=["m"], created=0, chat_template=override
    )
    assert model.template.render([{"role": "user", "content": "x"}]) == "mine"


def test_what_is_not_done_is_noted(tmp_path):
    model = served_model(
        checkpoint(tmp_path, generation_config={"num_beams": 4}), names=["m"], created=0
    )
    assert model.notes == ("generation_config.json sets num_beams, which is not used",)


def test_impossible_default_is_found_before_serving(tmp_path):
    with pytest.raises(ConfigError, match="temperature"):
        served_model(
            checkpoint(tmp_path, generation_config={"temperature": 9}), names=["m"], created=0
        )
