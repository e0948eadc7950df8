"""Log probabilities in the shapes that OpenAI gives them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ferrule.plan import TokenLogprobs
from ferrule.server.chat_schema import ChatLogprobs, ContentLogprob, TopLogprob
from ferrule.server.completions_schema import CompletionLogprobs
from ferrule.tokenizer.tokenizer import Tokenizer


def chat_logprobs(
    tokenizer: Tokenizer | None,
    tokens: Sequence[int],
    logprobs: Sequence[TokenLogprobs] | None,
    num_top: int,
) -> ChatLogprobs | None:
    """One entry for each token, each with ``num_top`` alternatives; None without ``logprobs``."""
    if logprobs is None:
        return None
    return ChatLogprobs(
        content=[
            ContentLogprob(
                token=_name(tokenizer, token),
                logprob=entry.logprob,
                bytes=_bytes(tokenizer, token),
                top_logprobs=[
                    TopLogprob(
                        token=_name(tokenizer, alternative),
                        logprob=logprob,
                        bytes=_bytes(tokenizer, alternative),
                    )
                    for alternative, logprob in _alternatives(entry, num_top)
                ],
            )
            for token, entry in zip(tokens, logprobs, strict=True)
        ]
    )


def completion_logprobs(
    tokenizer: Tokenizer | None,
    tokens: Sequence[int],
    logprobs: Sequence[TokenLogprobs | None],
    offsets: Sequence[int],
    num_top: int,
) -> CompletionLogprobs:
    """Parallel lists; the chosen token is among its alternatives, as it is with OpenAI.

    Args:
        tokenizer: Without one tokens are spelled ``token_id:17``.
        tokens: Of prompt, answer or both.
        logprobs: One for each token; None for the prompt's first.
        offsets: Where each token's text begins in the choice's text.
        num_top: How many alternatives.
    """
    return CompletionLogprobs(
        tokens=[_name(tokenizer, token) for token in tokens],
        token_logprobs=[entry and entry.logprob for entry in logprobs],
        top_logprobs=[
            entry and _named_alternatives(tokenizer, token, entry, num_top)
            for token, entry in zip(tokens, logprobs, strict=True)
        ],
        text_offset=list(offsets),
    )


def _named_alternatives(
    tokenizer: Tokenizer | None, token: int, entry: TokenLogprobs, num_top: int
) -> dict[str, float]:
    named: dict[str, float] = {}
    for alternative, logprob in _alternatives(entry, num_top):
        # Different tokens may be spelled alike; the likelier one comes first.
        named.setdefault(_name(tokenizer, alternative), logprob)
    named.setdefault(_name(tokenizer, token), entry.logprob)
    return named


def _alternatives(entry: TokenLogprobs, num_top: int) -> Iterable[tuple[int, float]]:
    return list(zip(entry.top_ids, entry.top_logprobs, strict=True))[:num_top]


def _name(tokenizer: Tokenizer | None, token: int) -> str:
    r"""Text, or ``bytes:\xf0\x9f`` for part of a character, as OpenAI's completions spell it."""
    if tokenizer is None:
        return f"token_id:{token}"
    spelling = tokenizer.token_bytes(token)
    try:
        return spelling.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelling)


def _bytes(tokenizer: Tokenizer | None, token: int) -> list[int] | None:
    return tokenizer and list(tokenizer.token_bytes(token))
