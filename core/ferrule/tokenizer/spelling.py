"""The exact bytes that each token stands for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import tokenizers

from ferrule.errors import TokenizerError

SPACE_MARK = "▁"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Spelling:
    """Spells tokens as bytes, by what a ``tokenizers`` decoder says of them.

    Working on bytes and not on text is what makes streaming exact: a character may be spread over
    several tokens, and the bytes of a whole are the bytes of its parts, one after the other.

    Args:
        backend: The tokenizer whose tokens and decoder are meant. Its added tokens stand for
            their own text, whatever the decoder.

    Attributes:
        vocab_size: The highest token id plus one.
        strips_space: Whether one space at the very beginning of a text is not part of it, as
            SentencePiece puts one before the first word.

    Raises:
        TokenizerError: The decoder is of a kind whose tokens have no bytes of their own.
    """

    vocab_size: int
    strips_space: bool

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._added = backend.get_added_tokens_decoder()
        self._special = frozenset(t for t, added in self._added.items() if added.special)
        self._bytes: dict[int, bytes] = {}
        self.vocab_size = max(backend.get_vocab().values(), default=-1) + 1
        self.strips_space = False
        self._is_byte_level = False
        self._has_byte_tokens = False
        self._replacements: list[tuple[str, str]] = []
        self._space_before = b""
        for step in _decoder_steps(backend):
            self._take_decoder_step(step)

    def bytes_of(self, token: int) -> bytes:
        """The bytes of one token, empty for an id that is not in the vocabulary."""
        spelled = self._bytes.get(token)
        if spelled is None:
            spelled = self._bytes[token] = self._spell(token)
        return spelled

    def is_special(self, token: int) -> bool:
        """Whether the token marks structure and is left out of a reader's text."""
        return token in self._special

    def pieces(self, tokens: Iterable[int], *, skip_special_tokens: bool) -> Iterator[bytes]:
        """The bytes of each token in turn, empty for a special token that is skipped."""
        for token in tokens:
            yield b"" if skip_special_tokens and token in self._special else self.bytes_of(token)

    def _spell(self, token: int) -> bytes:
        if token in self._added:
            return self._space_before + self._added[token].content.encode()
        # The backend counts in 32 bits without a sign and raises for anything else.
        text = self._backend.id_to_token(token) if 0 <= token < self.vocab_size else None
        if text is None:
            return b""
        if self._is_byte_level:
            return _byte_level(text)
        if self._has_byte_tokens and (found := _BYTE_TOKEN.fullmatch(text)):
            return bytes([int(found[1], 16)])
        for old, new in self._replacements:
            text = text.replace(old, new)
        return self._space_before + text.encode()

    def _take_decoder_step(self, step: dict[str, Any]) -> None:
        match step:
            case {"type": "ByteLevel"}:
                self._is_byte_level = True
            case {"type": "ByteFallback"}:
                self._has_byte_tokens = True
            case {"type": "Fuse"}:
                pass
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
                self._replacements.append((old, new))
            case {"type": "Strip", "content": " ", "start": 0 | 1 as start, "stop": 0}:
                self.strips_space = start == 1
            case {"type": "Metaspace", "replacement": str(mark)}:
                self._replacements.append((mark, " "))
                self.strips_space = step.get("prepend_scheme", "always") != "never"
            case {"type": "none"}:
                self._space_before = b" "
                self.strips_space = True
            case _:
                raise TokenizerError(
                    f"the tokenizer's decoder has the step {json.dumps(step)}; supported are "
                    "ByteLevel, ByteFallback, Fuse, Metaspace, Replace of a string, and Strip "
                    "of one leading space",
                    hint="Without its tokenizer files the checkpoint serves token ids.",
                )


def _decoder_steps(backend: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    decoder = backend.decoder
    if decoder is None:
        return [{"type": "none"}]  # tokenizers then puts a space between the tokens
    state = json.loads(decoder.__getstate__())
    return state["decoders"] if state["type"] == "Sequence" else [state]


def _byte_level(text: str) -> bytes:
    """Undo GPT-2's printable stand-ins for bytes; text that is not made of them is itself."""
    try:
        return bytes(map(_BYTES.__getitem__, text))
    except KeyError:
        return text.encode()


def byte_stand_ins() -> dict[int, str]:
    """The printable character that byte-level BPE writes for each byte.

    Bytes that print as themselves in Latin-1 stay; the others, in order, take the characters from
    U+0100 on (GPT-2's encoder.py, ``bytes_to_unicode``).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    stand_ins = {byte: chr(0x100 + n) for n, byte in enumerate(others)}
    return {byte: stand_ins.get(byte, chr(byte)) for byte in range(256)}


_BYTES = {character: byte for byte, character in byte_stand_ins().items()}
