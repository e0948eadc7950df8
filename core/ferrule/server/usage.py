"""How many tokens a request took."""

from __future__ import annotations

from collections.abc import Sequence

from ferrule.frontend.completion import Completion
from ferrule.server.schema import PromptTokensDetails, Usage


def usage(completions: Sequence[Completion], n: int) -> Usage:
    """Counts finished completions.

    Args:
        completions: ``n`` for the first prompt, ``n`` for the second, and so on.
        n: How many answers each prompt got; the prompt itself counts once.
    """
    firsts = completions[::n]
    num_prompt = sum(len(completion.request.tokens) for completion in firsts)
    num_generated = sum(completion.num_tokens for completion in completions)
    num_cached = sum(completion.num_cached_tokens for completion in firsts)
    return Usage(
        prompt_tokens=num_prompt,
        completion_tokens=num_generated,
        total_tokens=num_prompt + num_generated,
        prompt_tokens_details=PromptTokensDetails(num_cached),
    )
