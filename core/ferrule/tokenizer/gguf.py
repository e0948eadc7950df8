"""A tokenizer from a GGUF file's own metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import tokenizers
from tokenizers import decoders
from tokenizers.models import BPE

from ferrule.errors import TokenizerError
from ferrule.tokenizer.pre_tokenizers import PreTokenizer, pre_tokenizers_by_name
from ferrule.tokenizer.spm import Piece, PieceKind, add_marked_tokens, build_spm
from ferrule.tokenizer.tokenizer import Tokenizer

_PREFIX = "tokenizer.ggml."
_TEMPLATE_NAMES = {  # what a template calls a token, and the key that has its id
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # so spelled in the format
    "pad_token": "padding_token_id",
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
}
# llama.cpp takes these for a SentencePiece vocabulary that names none (llama-vocab.cpp).
_SPM_DEFAULTS = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
_KINDS = {int(kind): kind for kind in PieceKind}
_CUSTOM_HINT = "Serve it with --model DIRECTORY, one that has the tokenizer.json of the same model."


def from_gguf_metadata(metadata: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer that a GGUF file describes.

    Args:
        metadata: The file's metadata, with ``tokenizer.ggml.tokens`` and its companions
            (docs/gguf.md of the ggml repository). Unused tokens, which only pad the vocabulary,
            get no text.

    Raises:
        TokenizerError: The vocabulary is of an unknown kind, incomplete or contradictory.
    """
    kind = metadata.get(_PREFIX + "model")
    match kind:
        case "gpt2":
            return _byte_level(metadata)
        case "llama":
            return _sentencepiece(metadata)
        case _:
            raise TokenizerError(
                f"the GGUF file has a tokenizer of kind {kind!r} ({_PREFIX}model); supported are "
                "'gpt2' (byte-level BPE) and 'llama' (SentencePiece BPE)",
                hint=_CUSTOM_HINT,
            )


def _byte_level(metadata: Mapping[str, Any]) -> Tokenizer:
    pre = _pre_tokenizer(metadata)
    pieces = _pieces(metadata)
    known = [(t, piece) for t, piece in enumerate(pieces) if piece.kind != PieceKind.UNUSED]
    vocab = {piece.text: token for token, piece in known}
    try:
        model = BPE(vocab=vocab, merges=_merges(metadata), ignore_merges=pre.ignores_merges)
    except Exception as error:  # the engine has no type of its own for a merge of unknown parts
        raise TokenizerError(f"the GGUF file's vocabulary and merges disagree: {error}") from error
    backend = tokenizers.Tokenizer(model)
    if (normalizer := pre.normalizer()) is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre.build()
    backend.decoder = decoders.ByteLevel()
    add_marked_tokens(backend, [piece for _, piece in known])
    return _finish(backend, metadata, pieces, adds_bos=pre.adds_bos, defaults={})


def _sentencepiece(metadata: Mapping[str, Any]) -> Tokenizer:
    pieces = _pieces(metadata)
    adds_space = bool(metadata.get(_PREFIX + "add_space_prefix", True))
    backend = build_spm(pieces, space="always" if adds_space else "never")
    return _finish(backend, metadata, pieces, adds_bos=True, defaults=_SPM_DEFAULTS)


def _finish(
    backend: tokenizers.Tokenizer,
    metadata: Mapping[str, Any],
    pieces: Sequence[Piece],
    *,
    adds_bos: bool,
    defaults: Mapping[str, int],
) -> Tokenizer:
    ids = {
        name: metadata.get(_PREFIX + key, defaults.get(key))
        for name, key in _TEMPLATE_NAMES.items()
    }
    special = {
        name: pieces[token].text
        for name, token in ids.items()
        if token is not None and 0 <= token < len(pieces)
    }
    bos = ids["bos_token"]
    if bos is None or not metadata.get(_PREFIX + "add_bos_token", adds_bos):
        return Tokenizer(backend, special_tokens=special)
    return Tokenizer(backend, special_tokens=special, prefix=[int(bos)])


def _pre_tokenizer(metadata: Mapping[str, Any]) -> PreTokenizer:
    known = pre_tokenizers_by_name()
    name = metadata.get(_PREFIX + "pre")
    if name in known:
        return known[name]
    found = "does not say" if name in (None, "default") else f"says {name!r} for"
    near = get_close_matches(str(name), known, n=1)
    raise TokenizerError(
        f"the GGUF file {found} how text is cut into words ({_PREFIX}pre)"
        + (f"; the nearest known name is {near[0]!r}" if near else "")
        + f". Known are: {', '.join(sorted(known))}",
        hint=_CUSTOM_HINT,
    )


def _pieces(metadata: Mapping[str, Any]) -> list[Piece]:
    texts: list[str] = _array(metadata, "tokens")
    count = len(texts)
    kinds: list[int] = _array(metadata, "token_type", default=[PieceKind.NORMAL] * count)
    needs_scores = metadata[_PREFIX + "model"] == "llama"
    scores: list[float] = _array(
        metadata, "scores", default=None if needs_scores else [0.0] * count
    )
    if len(kinds) < count or len(scores) < count:
        raise TokenizerError(
            f"the GGUF file has {count} tokens, but {len(kinds)} token types "
            f"and {len(scores)} scores"
        )
    return [
        Piece(text=text, score=score, kind=_kind(token, text, kind))
        for token, (text, kind, score) in enumerate(zip(texts, kinds, scores, strict=False))
    ]


def _kind(token: int, text: str, number: int) -> PieceKind:
    # Converters fill a vocabulary up to the model's rows in this form, and older ones call these
    # tokens user-defined (convert_hf_to_gguf.py, get_vocab_base).
    is_padding = not text or (text.startswith("[PAD") and text == f"[PAD{token}]")
    return PieceKind.UNUSED if is_padding else _KINDS.get(number, PieceKind.UNUSED)


def _merges(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = []
    for merge in _array(metadata, "merges"):
        # A part may be a space only in a vocabulary that is not byte-level, so the first one
        # after the first character separates.
        at = merge.find(" ", 1)
        if at < 0:
            raise TokenizerError(f"the GGUF file's merge {merge!r} does not have two parts")
        merges.append((merge[:at], merge[at + 1 :]))
    return merges


def _array(
    metadata: Mapping[str, Any], name: str, *, default: list[Any] | None = None
) -> list[Any]:
    values = metadata.get(_PREFIX + name, default)
    if values is None:
        raise TokenizerError(
            f"the GGUF file has no {_PREFIX}{name}, which its tokenizer needs", hint=_CUSTOM_HINT
        )
    return values if isinstance(values, list) else values.tolist()
