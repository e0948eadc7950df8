"""Text on its way out, held back while it may be the beginning of a stop string."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Lets text through up to the first stop string.

    Args:
        stops: The texts that end the answer; none is empty.

    Attributes:
        matched: The stop string that was found; None so far.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.matched: str | None = None
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> str:
        """Takes more text and returns what is certain to be part of the answer.

        After a match nothing is returned any more.
        """
        if self.matched is not None:
            return ""
        self._held += text
        found = self._first_match()
        if found is None:
            return self._release(len(self._held) - self._num_doubtful())
        position, self.matched = found
        return self._release(position)

    def flush(self) -> str:
        """What was held back, once it is certain that no more text follows."""
        return "" if self.matched is not None else self._release(len(self._held))

    def _release(self, num_chars: int) -> str:
        released, self._held = self._held[:num_chars], self._held[num_chars:]
        return released

    def _first_match(self) -> tuple[int, str] | None:
        matches = [
            (position, stop) for stop in self._stops if (position := self._held.find(stop)) >= 0
        ]
        return min(matches, key=lambda match: match[0], default=None)

    def _num_doubtful(self) -> int:
        """Length of the longest end of the text that is the beginning of a stop string."""
        held = self._held
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(held)), longest, -1):
                if held.endswith(stop[:length]):
                    longest = length
                    break
        return longest
