"""llama.cpp's vocabularies and vectors, and small tokenizers made on the spot."""

from __future__ import annotations

import functools
import gzip
import io
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from ferrule.checkpoint.gguf import read_gguf
from ferrule.tokenizer.gguf import from_gguf_metadata
from ferrule.tokenizer.tokenizer import Tokenizer

_WORDS = [
    *("the", "cat", "sat", "on", "a", "mat", "while", "3", "dogs,", "über-quick,", "ran", "past"),
    *("42", "trees", "naïve", "café"),
]


@pytest.fixture(scope="session")
def vocab_metadata(data, tmp_path_factory) -> Callable[[str], Mapping[str, Any]]:
    """``vocab_metadata("qwen2")``: the metadata of one of llama.cpp's vocabulary files."""

    @functools.cache
    def read(name: str) -> Mapping[str, Any]:
        file = tmp_path_factory.mktemp("vocab") / f"{name}.gguf"
        file.write_bytes(gzip.decompress((data / f"vocab/ggml-vocab-{name}.gguf.gz").read_bytes()))
        return read_gguf(file).metadata

    return read


@pytest.fixture(scope="session")
def vocab_tokenizer(vocab_metadata) -> Callable[[str], Tokenizer]:
    """``vocab_tokenizer("qwen2")``: the tokenizer built from such a file, once a session."""
    return functools.cache(lambda name: from_gguf_metadata(vocab_metadata(name)))


@pytest.fixture(scope="session")
def vectors(data) -> Callable[[str], list[tuple[str, list[int]]]]:
    """``vectors("qwen2")``: texts and the ids that llama.cpp's repository says are right."""

    def read(name: str) -> list[tuple[str, list[int]]]:
        base = data / f"vocab/ggml-vocab-{name}.gguf"
        texts = base.with_suffix(".gguf.inp").read_bytes().decode()
        lines = base.with_suffix(".gguf.out").read_text().splitlines()
        texts = texts.split("\n__ggml_vocab_test__\n")[:-1]
        return [
            (text, [int(token) for token in line.split()])
            for text, line in zip(texts, lines, strict=True)
        ]

    return read


@pytest.fixture
def byte_level_backend() -> tokenizers.Tokenizer:
    """Byte-level BPE with a few words and ``<s>``, ``</s>``; adds ``<s>``."""
    special = ["<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: n for n, token in enumerate([*special, *alphabet, "he", "ll", "hell", "hello"])}
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o")]
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    backend.add_special_tokens([tokenizers.AddedToken(t, normalized=False) for t in special])
    return backend


@pytest.fixture
def write_directory(tmp_path, byte_level_backend) -> Callable[..., dict[str, Path]]:
    """``write_directory(tokenizer_config={...})``: files of a directory, by name.

    tokenizer.json is ``byte_level_backend`` unless another is given; keywords name further JSON
    files without their suffix.
    """

    def write(backend: tokenizers.Tokenizer | None = None, **contents: Any) -> dict[str, Path]:
        (backend or byte_level_backend).save(str(tmp_path / "tokenizer.json"))
        for name, content in contents.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        return {file.name: file for file in tmp_path.iterdir()}

    return write


@pytest.fixture(scope="session")
def train_sentencepiece() -> Callable[..., bytes]:
    """``train_sentencepiece(model_type="unigram")``: a small model of the real trainer's making."""

    def train(**options: Any) -> bytes:
        rng = random.Random(0)
        lines = [" ".join(rng.choices(_WORDS, k=rng.randrange(3, 12))) for _ in range(300)]
        lines += ["".join(rng.choices("ab ", k=30)) for _ in range(100)]
        model = io.BytesIO()
        llama = {
            "model_type": "bpe",
            "vocab_size": 420,
            "byte_fallback": True,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "minloglevel": 2,
            # As in Llama's own model: several spaces may be one piece.
            "allow_whitespace_only_pieces": True,
            "split_by_whitespace": False,
        }
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, **{**llama, **options}
        )
        return model.getvalue()

    return train
