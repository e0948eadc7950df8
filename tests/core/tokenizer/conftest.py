"""Tokenizers of llama.cpp's vocabularies, and small ones made on the spot."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from ferrule.tokenizer.gguf import from_gguf_metadata
from ferrule.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def vocab_tokenizer(vocab_metadata) -> Callable[[str], Tokenizer]:
    """``vocab_tokenizer("qwen2")``: the tokenizer built from such a file, once a session."""
    return functools.cache(lambda name: from_gguf_metadata(vocab_metadata(name)))


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
