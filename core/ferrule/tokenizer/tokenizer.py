"""Text to token ids and back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import tokenizers

from ferrule.errors import RequestError
from ferrule.tokenizer.detokenizer import Detokenizer
from ferrule.tokenizer.spelling import Spelling

_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer:
    """A vocabulary with its way to cut text up; immutable, and safe to use from several threads.

    Args:
        backend: The engine that does the cutting. Padding and truncation, which training leaves
            behind in tokenizer.json, are switched off.
        special_tokens: The named special tokens, ``"bos_token"`` to ``"<s>"`` and so on: what a
            chat template may write.
        prefix: The tokens that go before a text, usually BOS or none.

    Attributes:
        vocab_size: The number of ids that it knows: the highest plus one. The model's may be
            larger, since embeddings are padded.
        special_tokens: As given.
        bos_token_id: The beginning of a text, if the vocabulary has such a token.
        eos_token_id: Its end, likewise.
        adds_bos: Whether ``encode`` begins with BOS.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str],
        prefix: Sequence[int] = (),
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._spelling = Spelling(backend)
        self._prefix = list(prefix)
        self.vocab_size = self._spelling.vocab_size
        self.special_tokens = MappingProxyType(dict(special_tokens))
        self.bos_token_id = self.special_id("bos_token")
        self.eos_token_id = self.special_id("eos_token")
        self.adds_bos = self.bos_token_id in self._prefix

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text; special tokens written in it become their own ids.

        Args:
            text: Any text.
            add_special_tokens: Whether BOS goes before it, where the tokenizer asks for it and
                the text does not begin with it already. EOS is never put behind a text, also
                when the tokenizer asks for it: a prompt is there to be continued.

        Raises:
            RequestError: The text cannot be written in UTF-8, because of half a surrogate pair.
        """
        try:
            tokens = self._backend.encode(text, add_special_tokens=False).ids
        except TypeError as error:
            if found := _SURROGATE.search(text):
                raise RequestError(
                    f"the text has half of a surrogate pair at position {found.start()}, "
                    "which is not a character",
                    hint="Write characters outside the basic plane as a whole pair, or in UTF-8.",
                ) from error
            raise
        if add_special_tokens and tokens[: len(self._prefix)] != self._prefix:
            return self._prefix + tokens
        return tokens

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of some ids; bytes that are no UTF-8 become U+FFFD, unknown ids nothing."""
        pieces = self._spelling.pieces(tokens, skip_special_tokens=skip_special_tokens)
        data = b"".join(pieces)
        if self._spelling.strips_space:
            data = data.removeprefix(b" ")
        return data.decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The exact bytes of one token, which may be part of a character; none if unknown."""
        return self._spelling.bytes_of(token)

    def token_text(self, token: int) -> str:
        """One token by itself as text, U+FFFD for part of a character."""
        return self.token_bytes(token).decode(errors="replace")

    def detokenizer(
        self, prompt: Sequence[int] = (), *, skip_special_tokens: bool = True
    ) -> Detokenizer:
        """One that gives the text of the tokens that come after ``prompt``, as they come."""
        return Detokenizer(self._spelling, prompt, skip_special_tokens=skip_special_tokens)

    def special_id(self, name: str) -> int | None:
        """The id of a named special token, such as "pad_token"; None where there is none."""
        text = self.special_tokens.get(name)
        return None if text is None else self._backend.token_to_id(text)
