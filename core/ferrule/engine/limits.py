"""What one request may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from ferrule.engine.messages import Request
from ferrule.errors import ContextLengthError, RequestError


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The bounds of every request, checked before it touches anything.

    That ids are tokens was checked where the request was made, which knows the adapter's own.

    Attributes:
        max_length: Most tokens of a sequence, prompt and output together.
        num_kv_tokens: Tokens for which the whole block pool has room.
    """

    max_length: int
    num_kv_tokens: int

    def final_length(self, request: Request) -> int:
        """How many tokens the sequence has at most when it ends.

        Raises:
            ContextLengthError: The prompt leaves no room in the context.
            RequestError: The prompt is empty, or the sequence would not fit into the KV cache
                even if it had it alone.
        """
        self._check_prompt(request)
        max_tokens = request.sampling.max_tokens
        num_prompt = len(request.tokens)
        if max_tokens is None:
            # Nobody named a length, so the sequence may end where the cache does.
            length = min(self.max_length, self.num_kv_tokens + 1)
            max_tokens = max(1, length - num_prompt)
        length = min(num_prompt + max_tokens, self.max_length)
        # The last token's keys and values are never needed.
        num_stored = max(num_prompt, length - 1)
        if num_stored > self.num_kv_tokens:
            raise RequestError(
                f"the sequence needs KV cache for {num_stored} tokens ({num_prompt} of prompt and "
                f"up to {length - num_prompt} of output), and the whole cache holds "
                f"{self.num_kv_tokens}",
                hint="Shorten the prompt, ask for fewer tokens, or give the KV cache more memory.",
            )
        return length

    def _check_prompt(self, request: Request) -> None:
        tokens = request.tokens
        if not tokens:
            raise RequestError("the prompt has no tokens, and at least one is needed")
        needs_room = request.sampling.max_tokens != 0
        if len(tokens) + needs_room > self.max_length:
            raise ContextLengthError(
                f"the prompt has {len(tokens)} tokens and the context holds {self.max_length}, "
                "prompt and output together",
                code="context_length_exceeded",
                hint="Shorten the prompt.",
            )
