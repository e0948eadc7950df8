"""SentencePiece's byte-pair encoding, from its pieces and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from ferrule.errors import TokenizerError
from ferrule.tokenizer.merges import rebuild_merges
from ferrule.tokenizer.spelling import SPACE_MARK

SpacePrefix = Literal["always", "first", "never"]


class PieceKind(IntEnum):
    """What a piece is for; the numbers are those of sentencepiece_model.proto and of GGUF."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One entry of a SentencePiece vocabulary; its id is its place.

    Attributes:
        text: With U+2581 for a space.
        score: The higher, the earlier it is merged.
        kind: What it is for.
    """

    text: str
    score: float
    kind: PieceKind


def build_spm(pieces: Sequence[Piece], *, space: SpacePrefix) -> tokenizers.Tokenizer:
    """Build the encoder that gives the ids that SentencePiece's ``bpe`` model would.

    Args:
        pieces: The vocabulary, in the order of the ids.
        space: Which texts get a space in front: all, also those after a special token, only one
            at the very beginning (transformers' ``legacy=False``), or none.

    Raises:
        TokenizerError: A piece is there twice, or there is none to be merged.
    """
    by_id = {token: piece for token, piece in enumerate(pieces) if piece.kind != PieceKind.UNUSED}
    vocab = {piece.text: token for token, piece in by_id.items()}
    if len(vocab) != len(by_id):
        raise TokenizerError(f"the vocabulary has {len(by_id) - len(vocab)} pieces twice")
    normal = [piece for piece in by_id.values() if piece.kind == PieceKind.NORMAL]
    ranked = sorted((piece for piece in normal if len(piece.text) > 1), key=lambda p: -p.score)
    unknown = next((p.text for p in by_id.values() if p.kind == PieceKind.UNKNOWN), None)
    backend = tokenizers.Tokenizer(
        BPE(
            vocab=vocab,
            merges=rebuild_merges([p.text for p in ranked], {p.text for p in normal}),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=any(piece.kind == PieceKind.BYTE for piece in pieces),
        )
    )
    _mark_spaces(backend, space)
    add_marked_tokens(backend, list(by_id.values()))
    return backend


def add_marked_tokens(backend: tokenizers.Tokenizer, pieces: Sequence[Piece]) -> None:
    """Let control, unknown and user-defined pieces be found in a text as they are written."""
    special = (PieceKind.CONTROL, PieceKind.UNKNOWN)
    backend.add_special_tokens(
        [_added(piece, special=True) for piece in pieces if piece.kind in special]
    )
    backend.add_tokens(
        [_added(piece, special=False) for piece in pieces if piece.kind == PieceKind.USER_DEFINED]
    )


def _added(piece: Piece, *, special: bool) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(piece.text, normalized=False, special=special)


def _mark_spaces(backend: tokenizers.Tokenizer, space: SpacePrefix) -> None:
    if space == "first":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement=SPACE_MARK, prepend_scheme="first", split=False
        )
    else:
        mark = normalizers.Replace(" ", SPACE_MARK)
        first = [normalizers.Prepend(SPACE_MARK)] if space == "always" else []
        backend.normalizer = normalizers.Sequence([*first, mark])
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE_MARK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=0 if space == "never" else 1),
        ]
    )
