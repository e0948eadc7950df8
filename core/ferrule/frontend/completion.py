"""One sequence's outputs as text: what is certain, as soon as it is certain."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import msgspec

from ferrule.engine.messages import FinishReason, Output, Request
from ferrule.errors import RequestError
from ferrule.frontend.stop_strings import StopStrings
from ferrule.plan import TokenLogprobs
from ferrule.tokenizer.tokenizer import Tokenizer


class Delta(msgspec.Struct):
    """What an answer grew by.

    Tokens come with the text they end in; those that lie wholly inside a stop string never come.

    Attributes:
        text: More of the text; empty without a tokenizer.
        tokens: More of the tokens, a stop token included (its text is not in ``text``).
        offsets: For each of these tokens, where its text begins in the answer, in characters.
        logprobs: One for each of these tokens; None where the request asked for none.
        finish_reason: Why the answer ends here; None: it goes on.
        stop_reason: The stop token or stop string that ended it; None for the model's own eos.
    """

    text: str = ""
    tokens: list[int] = []
    offsets: list[int] = []
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


class Completion:
    """Turns one request's outputs into deltas; needs no event loop.

    Args:
        request: What was given to the engine.
        tokenizer: None serves token ids only.
        skip_special_tokens: Whether special tokens are left out of the text.

    Attributes:
        request: What was given to the engine.
        num_tokens: How many tokens were generated, those of a stop string included.
        num_cached_tokens: How many of the prompt's tokens were found in the prefix cache.
        prompt_logprobs: One for each token of the prompt (None for its first), once known.
        finish_reason: Why it ended; None: it goes on.
        needs_abort: Whether it ended here, by a stop string, so that the engine must be told.
    """

    def __init__(
        self, request: Request, tokenizer: Tokenizer | None, *, skip_special_tokens: bool = True
    ) -> None:
        self.request = request
        self.num_tokens = 0
        self.num_cached_tokens = 0
        self.prompt_logprobs: list[TokenLogprobs | None] | None = None
        self.finish_reason: FinishReason | None = None
        self.needs_abort = False
        self._detokenizer = tokenizer and tokenizer.detokenizer(
            request.tokens, skip_special_tokens=skip_special_tokens
        )
        stop = request.sampling.stop
        self._stops = StopStrings(stop) if stop else None
        self._min_tokens = request.sampling.min_tokens
        self._num_decoded = 0
        self._num_released = 0
        self._held: deque[_HeldToken] = deque()

    def push(self, output: Output) -> Delta:
        """Takes the engine's next output; one that comes after the end changes nothing.

        Raises:
            RequestError: The engine refused the request.
        """
        if output.finish_reason == "error":
            raise RequestError(output.error or "the engine refused the request")
        if output.prompt_logprobs is not None:
            self.prompt_logprobs = output.prompt_logprobs
        if output.num_cached_tokens:
            self.num_cached_tokens = output.num_cached_tokens
        delta = Delta(logprobs=None if self.request.sampling.logprobs is None else [])
        pieces = [
            self._take(token, index, output, delta)
            for index, token in enumerate(output.tokens)
            if self.finish_reason is None
        ]
        if output.finish_reason is not None and self.finish_reason is None:
            pieces.append(self._finish(output, delta))
        delta.text = "".join(pieces)
        self.needs_abort = self.finish_reason is not None and output.finish_reason is None
        return delta

    def _take(self, token: int, index: int, output: Output, delta: Delta) -> str:
        self.num_tokens += 1
        is_stop_token = token == output.stop_reason and index == len(output.tokens) - 1
        start = self._num_decoded
        text = ""
        if self._detokenizer is not None and not is_stop_token:
            piece = self._detokenizer.push(token)
            self._num_decoded += len(piece)
            text = self._pass_stops(piece, delta)
        logprobs = output.logprobs[index] if output.logprobs is not None else None
        self._held.append(_HeldToken(token, start, self._num_decoded, logprobs))
        self._release(len(text), delta)
        return text

    def _pass_stops(self, piece: str, delta: Delta) -> str:
        stops = self._stops
        # Text of the first min_tokens tokens can neither be nor begin a stop string.
        if stops is None or self.num_tokens <= self._min_tokens:
            return piece
        text = stops.push(piece)
        if stops.matched is not None:
            self._end(delta, "stop", stops.matched)
        return text

    def _finish(self, output: Output, delta: Delta) -> str:
        text = ""
        if self._detokenizer is not None:
            piece = self._detokenizer.flush()
            self._num_decoded += len(piece)
            text = self._pass_stops(piece, delta)
            if self._stops is not None:
                text += self._stops.flush()
        if self.finish_reason is None:
            own = output.stop_reason in self.request.sampling.stop_token_ids
            self._end(delta, output.finish_reason, output.stop_reason if own else None)
        self._release(len(text), delta)
        return text

    def _end(
        self, delta: Delta, reason: FinishReason | None, stop_reason: int | str | None
    ) -> None:
        self.finish_reason = delta.finish_reason = reason
        delta.stop_reason = stop_reason

    def _release(self, num_chars: int, delta: Delta) -> None:
        self._num_released += num_chars
        held = self._held
        while held and self._is_out(held[0]):
            token = held.popleft()
            delta.tokens.append(token.token)
            delta.offsets.append(token.start)
            if delta.logprobs is not None and token.logprobs is not None:
                delta.logprobs.append(token.logprobs)

    def _is_out(self, token: _HeldToken) -> bool:
        """Whether the token is part of the answer for certain."""
        if self._stops is None:
            return True
        if self._stops.matched is not None:
            return token.start < self._num_released
        if self.finish_reason is not None:
            return True
        # A token without text, such as the first bytes of a character, may begin a stop string.
        return token.start < self._num_released and token.end <= self._num_released


class _HeldToken(NamedTuple):
    token: int
    start: int
    end: int
    logprobs: TokenLogprobs | None
