"""What a SentencePiece ``.model`` file holds."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ferrule.errors import TokenizerError
from ferrule.tokenizer.spm import Piece, PieceKind

# Field numbers and defaults are those of sentencepiece_model.proto.
_KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_SPECIAL_IDS = {"unk_token": (40, 0), "bos_token": (41, 1), "eos_token": (42, 2)}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, kw_only=True, slots=True)
class SentencePieceModel:
    """The parts of a ModelProto that decide how text is encoded.

    Attributes:
        pieces: The vocabulary, in the order of the ids.
        kind: How pieces are chosen: ``bpe``, ``unigram``, ``word`` or ``char``.
        special_tokens: The pieces that begin and end a text and stand for the unknown.
        normalization: The name of the rules that change text first, ``identity`` for none.
        has_rules: Whether there are such.
        adds_space: Whether a space goes before a text.
        removes_spaces: Whether spaces at the ends, and all but one of several, are removed.
        marks_word_ends: Whether the mark for a space ends a word instead of beginning it.
    """

    pieces: tuple[Piece, ...]
    kind: str = "unigram"
    special_tokens: Mapping[str, str] = field(default_factory=dict[str, str])
    normalization: str = ""
    has_rules: bool = False
    adds_space: bool = True
    removes_spaces: bool = True
    marks_word_ends: bool = False

    @classmethod
    def read(cls, path: Path) -> SentencePieceModel:
        """Read a ``.model`` file.

        Raises:
            TokenizerError: It is not such a file, or cut short.
        """
        try:
            return _model(path.read_bytes())
        except (ValueError, IndexError, struct.error) as error:
            raise TokenizerError(
                f"{path} is not a SentencePiece model: {error}",
                hint="A tokenizer of another kind can be saved by transformers as tokenizer.json.",
            ) from error


def _model(data: bytes) -> SentencePieceModel:
    pieces: list[Piece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            pieces.append(_piece(value))
        elif number == 2 and isinstance(value, bytes):
            trainer = dict(_fields(value))
        elif number == 3 and isinstance(value, bytes):
            normalizer = dict(_fields(value))
    if not pieces:
        raise ValueError("it has no pieces")
    return SentencePieceModel(
        pieces=tuple(pieces),
        kind=_KINDS.get(_number(trainer, 3, 1), "unknown"),
        special_tokens=_special_tokens(trainer, pieces),
        normalization=_text(normalizer, 1),
        has_rules=bool(normalizer.get(2)),
        adds_space=bool(_number(normalizer, 3, 1)),
        removes_spaces=bool(_number(normalizer, 4, 1)),
        marks_word_ends=bool(_number(trainer, 24, 0)),
    )


def _piece(data: bytes) -> Piece:
    values = dict(_fields(data))
    score = values.get(2, b"\0\0\0\0")
    if not isinstance(score, bytes):
        raise ValueError("a piece's score is not a float")
    return Piece(
        text=_text(values, 1),
        score=struct.unpack("<f", score)[0],
        kind=PieceKind(_number(values, 3, PieceKind.NORMAL)),
    )


def _special_tokens(trainer: Mapping[int, int | bytes], pieces: list[Piece]) -> dict[str, str]:
    ids = {name: _number(trainer, *place) for name, place in _SPECIAL_IDS.items()}
    # A model without such a piece has -1 there, a negative number in 64 bits.
    return {name: pieces[token].text for name, token in ids.items() if token < len(pieces)}


def _number(values: Mapping[int, int | bytes], number: int, default: int) -> int:
    value = values.get(number, default)
    if not isinstance(value, int):
        raise ValueError(f"field {number} is not a number")
    return value


def _text(values: Mapping[int, int | bytes], number: int) -> str:
    value = values.get(number, b"")
    if not isinstance(value, bytes):
        raise ValueError(f"field {number} is not text")
    return value.decode()


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message in protobuf's wire format: numbers, or bytes as they are."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        if at + size > len(data):
            raise ValueError(f"a field of {size} bytes at byte {at} of {len(data)}")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number of more than ten bytes at byte {at}")
