"""A whole answer, put together from its deltas."""

from __future__ import annotations

from ferrule.engine.messages import FinishReason
from ferrule.frontend.completion import Delta
from ferrule.plan import TokenLogprobs


class Answer:
    """Grows by deltas until it has a finish reason.

    Attributes:
        tokens: Generated tokens, a stop token included.
        offsets: For each token, where its text begins, in characters.
        logprobs: One for each token; None where the request asked for none.
        finish_reason: Why it ended; None: it has not.
        stop_reason: The stop token or stop string that ended it; None for the model's own eos.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.offsets: list[int] = []
        self.logprobs: list[TokenLogprobs] | None = None
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | str | None = None
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """The text so far; empty without a tokenizer."""
        return "".join(self._pieces)

    def add(self, delta: Delta) -> None:
        """Takes what the answer grew by."""
        self._pieces.append(delta.text)
        self.tokens += delta.tokens
        self.offsets += delta.offsets
        if delta.logprobs is not None:
            self.logprobs = [] if self.logprobs is None else self.logprobs
            self.logprobs += delta.logprobs
        self.finish_reason = delta.finish_reason
        self.stop_reason = delta.stop_reason
