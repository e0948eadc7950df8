from __future__ import annotations

import json

import pytest

from ferrule.errors import LoadError
from ferrule.lora import merge_adapter, open_adapter


def tokenizer(*added):
    vocab = {f"t{number}": number for number in range(96)}
    more = [{"content": text, "id": number, "special": True} for text, number in added]
    return json.dumps({"model": {"type": "BPE", "vocab": vocab}, "added_tokens": more})


@pytest.fixture
def resized(train):
    """A base of 96 tokens and an adapter with two more."""
    trained = train(
        before=lambda model: model.resize_token_embeddings(98, mean_resizing=False),
        modules_to_save=["embed_tokens", "lm_head"],
    )
    (trained.base / "tokenizer.json").write_text(tokenizer())
    (trained.base / "tokenizer_config.json").write_text('{"of": "base"}')
    own = tokenizer(("<call>", 96), ("</call>", 97))
    (trained.adapter / "tokenizer.json").write_text(own)
    (trained.adapter / "chat_template.jinja").write_text("{{ messages }}")
    return trained


def test_L6_new_tokens_are_told_with_their_ids(resized, open_base):
    adapter = open_adapter(str(resized.adapter), base=open_base(resized.base))
    assert adapter.added_tokens == {"<call>": 96, "</call>": 97}
    assert adapter.report.added_tokens == adapter.added_tokens
    assert adapter.files.keys() == {"tokenizer.json", "chat_template.jinja"}


def test_L6_a_token_without_a_row_is_refused(resized, open_base):
    own = tokenizer(("<call>", 96), ("</call>", 98))
    (resized.adapter / "tokenizer.json").write_text(own)
    with pytest.raises(LoadError, match="'</call>' with id 98; there are 98 rows"):
        open_adapter(str(resized.adapter), base=open_base(resized.base))


def test_L6_a_merged_model_gets_the_adapters_tokenizer(resized, open_base, tmp_path):
    base = open_base(resized.base)
    adapter = open_adapter(str(resized.adapter), base=base, merging=True)
    merge_adapter(base, adapter, tmp_path / "out")
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found >= {"tokenizer.json", "chat_template.jinja", "config.json"}
    assert "tokenizer_config.json" not in found
    assert "<call>" in (tmp_path / "out" / "tokenizer.json").read_text()


def test_without_new_tokens_only_the_chat_template_is_the_adapters(train, open_base, tmp_path):
    trained = train()
    (trained.base / "tokenizer.json").write_text(tokenizer())
    (trained.base / "tokenizer_config.json").write_text('{"of": "base"}')
    (trained.adapter / "tokenizer.json").write_text(tokenizer())
    (trained.adapter / "tokenizer_config.json").write_text('{"of": "adapter"}')
    (trained.adapter / "chat_template.jinja").write_text("{{ messages }}")
    base = open_base(trained.base)
    adapter = open_adapter(str(trained.adapter), base=base)
    assert adapter.added_tokens == {}
    merge_adapter(base, adapter, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer_config.json").read_text() == '{"of": "base"}'
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"


def test_a_unigram_vocabulary_is_a_list(resized, open_base):
    unigram = {"model": {"type": "Unigram", "vocab": [[f"t{n}", -1.0] for n in range(97)]}}
    (resized.adapter / "tokenizer.json").write_text(json.dumps(unigram))
    adapter = open_adapter(str(resized.adapter), base=open_base(resized.base))
    assert adapter.added_tokens == {"t96": 96}
