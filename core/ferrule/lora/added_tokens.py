"""Tokens that an adapter's tokenizer has and its base's lacks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ferrule.checkpoint.stored_file import read_json_object
from ferrule.errors import LoadError
from ferrule.lora.base import Base
from ferrule.lora.stored import StoredAdapter

_TOKENIZER = "tokenizer.json"


def added_tokens(adapter: StoredAdapter, base: Base, vocab_size: int) -> Mapping[str, int]:
    """New tokens with their ids.

    Args:
        adapter: Whose tokenizer.json is read, if it has one.
        base: Whose tokenizer.json or GGUF vocabulary counts.
        vocab_size: Rows of the head with the adapter.

    Raises:
        LoadError: A new token's id is beyond the rows that there are.
    """
    if _TOKENIZER not in adapter.files:
        return {}
    known = _known(base)
    if known is None:
        return {}
    own = _vocabulary(adapter.files[_TOKENIZER])
    new = {text: number for text, number in own.items() if text not in known}
    beyond = {text: number for text, number in new.items() if number >= vocab_size}
    if beyond:
        text, number = next(iter(beyond.items()))
        raise LoadError(
            f"{adapter.location}: its tokenizer has {len(beyond)} tokens that the model has no rows"
            f" for, such as {text!r} with id {number}; there are {vocab_size} rows.",
            hint="Save the resized embeddings with the adapter: save_pretrained(..., "
            "save_embedding_layers=True), or modules_to_save=['embed_tokens', 'lm_head'].",
        )
    return new


def _known(base: Base) -> set[str] | None:
    checkpoint = base.match.checkpoint
    if _TOKENIZER in checkpoint.files:
        return set(_vocabulary(checkpoint.files[_TOKENIZER]))
    tokens = checkpoint.metadata.get("tokenizer.ggml.tokens")
    return set(tokens) if isinstance(tokens, list) else None


def _vocabulary(file: Path) -> dict[str, int]:
    """Every token of a tokenizer.json; unigram vocabularies are lists of pairs."""
    values: dict[str, Any] = read_json_object(file)
    vocab: Any = (values.get("model") or {}).get("vocab") or {}
    if isinstance(vocab, list):
        vocab = {pair[0]: number for number, pair in enumerate(vocab)}
    added = {each["content"]: each["id"] for each in values.get("added_tokens") or []}
    return {**vocab, **added}
