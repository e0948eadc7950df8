"""Tokenizers as GGUF metadata: read back, they cut text as before."""

from __future__ import annotations

import json

import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from ferrule.checkpoint.checkpoint import Checkpoint
from ferrule.checkpoint.open import open_checkpoint
from ferrule.errors import TokenizerError
from ferrule.quantize.vocabulary import PROBES, vocabulary_metadata
from ferrule.tokenizer.gguf import from_gguf_metadata
from ferrule.tokenizer.load import load_chat_template, load_tokenizer

TEXTS = [*PROBES, "  two  spaces", "<s>hello</s> hello", "a", ""]


def checkpoint(files, generation=(), **config):
    return Checkpoint(
        location="here",
        kind="safetensors",
        config=config,
        tensors={},
        generation_config=dict(generation),
        files=files,
    )


@pytest.fixture
def byte_level(tmp_path):
    """A small byte-level tokenizer that cuts as SmolLM's does, and its files."""

    def make(**config):
        special = ["<s>", "</s>", "<|eot|>"]
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        words = ["he", "ll", "hell", "hello"]
        vocab = {token: n for n, token in enumerate([*special, *alphabet, *words])}
        merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o")]
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
        )
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens([tokenizers.AddedToken(t, normalized=False) for t in special])
        backend.add_tokens([tokenizers.AddedToken("<tool>", normalized=False)])
        backend.save(str(tmp_path / "tokenizer.json"))
        named = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": "{{ bos_token }}hi"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**named, **config}))
        return {path.name: path for path in tmp_path.iterdir()}

    return make


@pytest.mark.parametrize("adds_bos", [True, False])
def test_byte_level(byte_level, adds_bos):
    files = byte_level(add_bos_token=adds_bos)
    own = load_tokenizer(files, {})
    metadata = vocabulary_metadata(checkpoint(files), own.vocab_size + 3)
    assert metadata["tokenizer.ggml.pre"] == "smollm"
    kinds = metadata["tokenizer.ggml.token_type"]
    assert len(kinds) == len(metadata["tokenizer.ggml.tokens"]) == own.vocab_size + 3
    assert (kinds[:4], kinds[-4:]) == ([3, 3, 3, 1], [4, 5, 5, 5])
    written = from_gguf_metadata(metadata)
    for text in [*TEXTS, "<tool>hello<|eot|>"]:
        assert written.encode(text) == own.encode(text)
    assert dict(written.special_tokens) == dict(own.special_tokens)
    template = load_chat_template({}, metadata, written)
    assert template.render([{"role": "user", "content": "x"}]) == "<s>hi"


def test_sentencepiece(tmp_path, train_sentencepiece):
    (tmp_path / "tokenizer.model").write_bytes(train_sentencepiece())
    added = {"420": {"content": "<|im_end|>", "special": True}}
    config = {"added_tokens_decoder": added, "add_bos_token": True, "bos_token": "<s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    files = {path.name: path for path in tmp_path.iterdir()}
    metadata = vocabulary_metadata(checkpoint(files), 424)
    written = from_gguf_metadata(metadata)
    reference = sentencepiece.SentencePieceProcessor(str(tmp_path / "tokenizer.model"))
    for text in ["the cat sat on a mat", "  3 dogs, 中文 naïve", "ab ba"]:
        assert written.encode(text) == [reference.bos_id(), *reference.encode(text)]
    assert written.encode("<|im_end|>")[-1] == 420
    assert metadata["tokenizer.ggml.bos_token_id"] == 1


def test_every_end_has_a_key(byte_level):
    files = byte_level()
    metadata = vocabulary_metadata(checkpoint(files, {"eos_token_id": [2, 1]}), 300)
    assert metadata["tokenizer.ggml.eos_token_id"] == 1
    assert metadata["tokenizer.ggml.eot_token_id"] == 2
    with pytest.raises(TokenizerError, match="at the 4 tokens 1, 2, 3, 4"):
        vocabulary_metadata(checkpoint(files, {"eos_token_id": [1, 2, 3, 4]}), 300)


def test_a_gguf_keeps_its_own(byte_level, vocab_metadata):
    source = checkpoint({})
    metadata = {**vocab_metadata("qwen2"), "tokenizer.chat_template": "hi"}
    kept = vocabulary_metadata(
        Checkpoint(location="x", kind="gguf", config={}, tensors={}, metadata=metadata), 10
    )
    assert kept["tokenizer.ggml.tokens"] == metadata["tokenizer.ggml.tokens"]
    assert kept["tokenizer.chat_template"] == "hi"
    assert vocabulary_metadata(source, 10) == {"tokenizer.ggml.model": "none"}


def test_more_tokens_than_rows_are_refused(byte_level):
    with pytest.raises(TokenizerError, match="264 tokens and the embedding 200 rows"):
        vocabulary_metadata(checkpoint(byte_level()), 200)


def test_a_way_to_cut_without_a_name_is_refused(byte_level):
    files = byte_level()
    backend = tokenizers.Tokenizer.from_file(str(files["tokenizer.json"]))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("e", "isolated"), pre_tokenizers.ByteLevel(False)]
    )
    backend.save(str(files["tokenizer.json"]))
    with pytest.raises(TokenizerError, match="no name for"):
        vocabulary_metadata(checkpoint(files), 300)


@pytest.mark.realmodel
def test_a_real_vocabulary(smollm2):
    source = open_checkpoint(str(smollm2 / "llama"))
    metadata = vocabulary_metadata(source, 49152)
    official = open_checkpoint(str(smollm2 / "smollm2-135m.gguf")).metadata
    for key in ("tokens", "merges", "token_type", "pre", "bos_token_id", "eos_token_id"):
        assert metadata[f"tokenizer.ggml.{key}"] == official[f"tokenizer.ggml.{key}"], key
