"""Server-sent events as far as completions use them: one line of data each."""

from __future__ import annotations

from collections.abc import Iterator

DONE = b"[DONE]"


class EventLines:
    """Cuts a stream of bytes into the data of its events."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The data of each event whose line has come whole; comments and other fields are left out.

        Args:
            data: The next bytes, cut anywhere.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
