"""What is counted while requests run, for whoever watches."""

from __future__ import annotations

import time

from ferrule.engine.messages import Progress


class Tally:
    """Counts of the requests of one point.

    Args:
        stage: What to call the point.
        num_requests: How many there will be.
    """

    def __init__(self, stage: str, num_requests: int) -> None:
        self._stage = stage
        self._num_requests = num_requests
        self._start = time.perf_counter()
        self._num_done = 0
        self._num_failed = 0
        self._num_tokens = 0

    def add_tokens(self, num: int) -> None:
        """Counts tokens as they come; a negative number takes some back."""
        self._num_tokens += num

    def add_request(self, *, is_failed: bool) -> None:
        """Counts a request that is over."""
        self._num_done += 1
        self._num_failed += is_failed

    def progress(self) -> Progress:
        """How far the point is."""
        seconds = time.perf_counter() - self._start
        detail = f"{self._num_done} of {self._num_requests} requests"
        if self._num_failed:
            detail += f", {self._num_failed} failed"
        if self._num_tokens:
            detail += f", {self._num_tokens / seconds:.1f} tok/s"
        return Progress(self._stage, self._num_done / self._num_requests, detail)
