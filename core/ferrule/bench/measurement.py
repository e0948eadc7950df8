"""What became of one request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ferrule.bench.prompts import Prompt
from ferrule.bench.tally import Tally


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchRequest:
    """A request as whoever answers it needs it.

    Attributes:
        model: The name to ask for.
        prompt: What to continue, and by how many tokens.
    """

    model: str
    prompt: Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """Counts and times of an answer that came whole; times are in seconds.

    Attributes:
        prompt_tokens: As the server counts them.
        cached_tokens: How many of these it found in its prefix cache, where it tells.
        output_tokens: As the server counts them, so that it may send several at a time.
        ttft: From sending to the first tokens.
        itl: Mean time between tokens, from the first to the last; None: there was only one.
        e2e: From sending to the end.
    """

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    ttft: float
    itl: float | None
    e2e: float


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer that did not come, or not to its end."""

    error: str


Outcome = Measurement | Failure
# Sends a request and measures its answer; tokens are counted in the tally as they come.
Send = Callable[[BenchRequest, Tally], Awaitable[Outcome]]


def measured(
    *,
    prompt_tokens: int,
    cached_tokens: int,
    output_tokens: int,
    start: float,
    first: float,
    last: float,
    end: float,
) -> Measurement:
    """A measurement from the clock's readings.

    Args:
        prompt_tokens: Of the prompt.
        cached_tokens: How many of these needed no computation.
        output_tokens: Of the answer.
        start: When the request was sent.
        first: When its first tokens came.
        last: When its last tokens came.
        end: When its answer was over.
    """
    return Measurement(
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        output_tokens=output_tokens,
        ttft=first - start,
        itl=(last - first) / (output_tokens - 1) if output_tokens > 1 else None,
        e2e=end - start,
    )
