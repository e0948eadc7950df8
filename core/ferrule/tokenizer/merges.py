"""The merges of a byte-pair vocabulary that comes without them."""

from __future__ import annotations

from collections.abc import Container, Iterable


def rebuild_merges(pieces: Iterable[str], parts: Container[str]) -> list[tuple[str, str]]:
    """The pairs that may be merged, best first.

    SentencePiece and tiktoken store no merges: they join the two neighbours whose union is the
    best piece of the vocabulary, the leftmost of equals. Allowing every split of a piece into two
    pieces, in the order of the pieces, does the same.

    Args:
        pieces: What may come out of a merge, best first.
        parts: What may go into one.
    """
    return [
        (piece[:at], piece[at:])
        for piece in pieces
        # The longer left part first: where two pairs with the same union overlap, as in
        # ab-a-ba for aba, that is the left one.
        for at in range(len(piece) - 1, 0, -1)
        if piece[:at] in parts and piece[at:] in parts
    ]
