"""The vocabulary of a byte-level tokenizer.json as GGUF metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import tokenizers

from ferrule.errors import TokenizerError
from ferrule.tokenizer.pre_tokenizers import PreTokenizer, pre_tokenizers_by_name
from ferrule.tokenizer.spm import PieceKind
from ferrule.tokenizer.tokenizer_config import TokenizerConfig, add_tokens, read_json

_PREFIX = "tokenizer.ggml."


def byte_level_vocabulary(
    files: Mapping[str, Path], probes: Sequence[str]
) -> dict[str, Any] | None:
    """Tokens, kinds and merges, and the name of the way that text is cut into words.

    Args:
        files: ``tokenizer.json``, and what there is beside it, by file name.
        probes: Texts by which the ways to cut text are told apart.

    Returns:
        The metadata, or None: the tokenizer is not byte-level BPE.

    Raises:
        TokenizerError: GGUF has no name for the way that it cuts text.
    """
    path = files["tokenizer.json"]
    content = read_json(path)
    model = cast("dict[str, Any]", content.get("model") or {})
    backend = tokenizers.Tokenizer.from_file(str(path))
    if model.get("type") != "BPE" or '"ByteLevel"' not in _decoder(backend):
        return None
    add_tokens(backend, TokenizerConfig.from_files(files))
    name = _name_of(path, backend, bool(model.get("ignore_merges")), probes)
    added = backend.get_added_tokens_decoder()
    by_id = {token: text for text, token in backend.get_vocab().items()}
    texts = [by_id.get(token, f"[PAD{token}]") for token in range(max(by_id) + 1)]
    return {
        _PREFIX + "model": "gpt2",
        _PREFIX + "pre": name,
        _PREFIX + "tokens": texts,
        _PREFIX + "token_type": [
            int(_kind(token in by_id, added.get(token))) for token in range(len(texts))
        ],
        _PREFIX + "merges": [_merge(path, merge) for merge in model.get("merges", [])],
    }


def _decoder(backend: tokenizers.Tokenizer) -> str:
    return "" if backend.decoder is None else backend.decoder.__getstate__().decode()


def _kind(is_known: bool, added: tokenizers.AddedToken | None) -> PieceKind:
    if not is_known:
        return PieceKind.UNUSED
    if added is None:
        return PieceKind.NORMAL
    return PieceKind.CONTROL if added.special else PieceKind.USER_DEFINED


def _merge(path: Path, merge: object) -> str:
    parts = merge.split(" ") if isinstance(merge, str) else cast("list[str]", merge)
    if len(parts) != 2 or any(" " in part for part in parts):
        raise TokenizerError(f"{path} has the merge {merge!r}, which GGUF cannot hold.")
    return " ".join(parts)


def _name_of(
    path: Path, backend: tokenizers.Tokenizer, ignores_merges: bool, probes: Sequence[str]
) -> str:
    """The first known way that cuts the probes alike."""
    expected = _words(backend.normalizer, backend.pre_tokenizer, probes)
    for name, pre in pre_tokenizers_by_name().items():
        if pre.ignores_merges == ignores_merges and _cut(pre, probes) == expected:
            return name
    raise TokenizerError(
        f"{path} cuts text into words in a way that GGUF has no name for.",
        hint="Serve the checkpoint as it is.",
    )


def _cut(pre: PreTokenizer, probes: Sequence[str]) -> list[list[str]]:
    return _words(pre.normalizer(), pre.build(), probes)


def _words(normalizer: Any, pre_tokenizer: Any, probes: Sequence[str]) -> list[list[str]]:
    texts = [probe if normalizer is None else normalizer.normalize_str(probe) for probe in probes]
    if pre_tokenizer is None:
        return [[text] for text in texts]
    return [[word for word, _ in pre_tokenizer.pre_tokenize_str(text)] for text in texts]
