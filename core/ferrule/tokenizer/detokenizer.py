"""Tokens to text, one at a time, never half a character."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from ferrule.tokenizer.spelling import Spelling

_LONGEST_CHARACTER = 4  # bytes, in UTF-8


class Detokenizer:
    """Gives the text of a growing sequence of tokens as soon as it is certain.

    All pushes and the flush, put together, are the decoded text of all tokens; with a prompt, they
    are what the tokens add to it.

    Args:
        spelling: The bytes of the tokens.
        prompt: The tokens before the first one that will be pushed. With text before it, a first
            word keeps the space in front, and a character begun in the prompt is completed.
        skip_special_tokens: Whether special tokens stand for no text.
    """

    def __init__(
        self,
        spelling: Spelling,
        prompt: Sequence[int] = (),
        *,
        skip_special_tokens: bool = True,
    ) -> None:
        self._spelling = spelling
        self._skips_special = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        tail = self._tail(prompt)
        self._at_start = not tail
        self._decoder.decode(tail)

    def push(self, token: int) -> str:
        """The text that has become certain with this token, often empty, never half a character."""
        if self._skips_special and self._spelling.is_special(token):
            return ""
        return self._decoder.decode(self._without_first_space(self._spelling.bytes_of(token)))

    def flush(self) -> str:
        """The rest at the end: U+FFFD where a character was never completed, else nothing."""
        return self._decoder.decode(b"", final=True)

    def _without_first_space(self, piece: bytes) -> bytes:
        if not self._at_start or not piece:
            return piece
        self._at_start = False
        return piece.removeprefix(b" ") if self._spelling.strips_space else piece

    def _tail(self, prompt: Sequence[int]) -> bytes:
        """As many of the prompt's last bytes as an unfinished character can have."""
        tail = b""
        pieces = self._spelling.pieces(reversed(prompt), skip_special_tokens=self._skips_special)
        for piece in pieces:
            tail = piece + tail
            if len(tail) >= _LONGEST_CHARACTER:
                break
        return tail
