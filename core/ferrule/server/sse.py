"""Server-sent events, encoded once where they can be."""

from __future__ import annotations

import msgspec

# Stands for the text while a chunk is encoded ahead of it; JSON strings of clients may hold
# anything, but a chunk's other fields are ours and the model's name.
GAP = "\x00gap\x00"
DONE = b"data: [DONE]\n\n"

_encoder = msgspec.json.Encoder()
_GAP_JSON = _encoder.encode(GAP)


def event(chunk: msgspec.Struct) -> bytes:
    """One event."""
    return b"data: " + _encoder.encode(chunk) + b"\n\n"


class TextEvent:
    """An event that differs from the next only in its text.

    A struct for each token would cost more than all else that the server does for it.

    Args:
        chunk: The event with ``GAP`` where the text goes.
    """

    def __init__(self, chunk: msgspec.Struct) -> None:
        self._head, self._tail = event(chunk).split(_GAP_JSON)

    def encode(self, text: str) -> bytes:
        """The event with this text."""
        return self._head + _encoder.encode(text) + self._tail
