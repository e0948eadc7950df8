"""What was measured, as figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import msgspec

from ferrule.bench.load import Run
from ferrule.bench.measurement import Failure, Measurement
from ferrule.bench.settings import Load, Settings

Mode = Literal["url", "server", "in-process"]


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of some requests; None where there was none."""

    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    max: float | None = None


class ErrorCount(msgspec.Struct, frozen=True, kw_only=True):
    """How often an error came."""

    error: str
    count: int


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """What one load gave.

    Attributes:
        concurrency: Clients, or None.
        rate: Arrivals in a second, or None.
        requests: How many were sent.
        failed: How many gave no whole answer; they count in no figure below.
        errors: What was wrong with these, the commonest first.
        seconds: From the first request to the last answer.
        requests_per_second: Whole answers.
        prompt_tokens: As the server counts them.
        cached_tokens: How many of these were found in its prefix cache, where it tells.
        output_tokens: As the server counts them.
        output_tok_s: Output tokens in a second, in all.
        total_tok_s: The same with the prompts' tokens.
        ttft_ms: From sending a request to its first tokens.
        itl_ms: Each request's mean time between tokens.
        e2e_ms: From sending a request to its end.
    """

    concurrency: int | None
    rate: float | None
    requests: int
    failed: int
    errors: list[ErrorCount]
    seconds: float
    requests_per_second: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    output_tok_s: float
    total_tok_s: float
    ttft_ms: Spread
    itl_ms: Spread
    e2e_ms: Spread


class Report(msgspec.Struct, kw_only=True):
    """All of a measurement; points are added as they come.

    Attributes:
        ferrule: The version that measured.
        date: When it began, in UTC.
        target: Where it was sent: a URL, or the checkpoint that was served.
        mode: "url", "server" for one that was started for it, or "in-process".
        engine: Options of the engine, where we started it.
        model: The name that requests asked for.
        settings: Load and workload.
        points: One for each load.
        notes: What the reader should know.
    """

    ferrule: str
    date: str
    target: str
    mode: Mode
    engine: dict[str, object] | None = None
    model: str = ""
    settings: Settings
    points: list[Point] = []
    notes: list[str] = []


def percentile(values: Sequence[float], percent: int) -> float | None:
    """The value below which this share of them lies; None where there are none.

    Nothing is interpolated: it is one of the values, at the place ``percent / 100 * n`` of the
    ascending ones, counted from 0.

    Args:
        values: In any order.
        percent: 0 to 100.
    """
    if not values:
        return None
    return sorted(values)[min(len(values) - 1, percent * len(values) // 100)]


def summarise(load: Load, run: Run) -> Point:
    """The figures of one load.

    Args:
        load: What was asked for.
        run: What came.
    """
    good = [each for each in run.outcomes if isinstance(each, Measurement)]
    bad = Counter(each.error for each in run.outcomes if isinstance(each, Failure))
    prompt_tokens = sum(each.prompt_tokens for each in good)
    output_tokens = sum(each.output_tokens for each in good)
    return Point(
        concurrency=load.concurrency,
        rate=load.rate,
        requests=len(run.outcomes),
        failed=bad.total(),
        errors=[ErrorCount(error=error, count=count) for error, count in bad.most_common()],
        seconds=_round(run.seconds),
        requests_per_second=_round(len(good) / run.seconds),
        prompt_tokens=prompt_tokens,
        cached_tokens=sum(each.cached_tokens for each in good),
        output_tokens=output_tokens,
        output_tok_s=_round(output_tokens / run.seconds),
        total_tok_s=_round((prompt_tokens + output_tokens) / run.seconds),
        ttft_ms=_spread([each.ttft for each in good]),
        itl_ms=_spread([each.itl for each in good if each.itl is not None]),
        e2e_ms=_spread([each.e2e for each in good]),
    )


def _spread(seconds: Sequence[float]) -> Spread:
    if not seconds:
        return Spread()
    values = [_round(each * 1000) for each in seconds]
    return Spread(
        mean=_round(sum(values) / len(values)),
        p50=percentile(values, 50),
        p90=percentile(values, 90),
        p99=percentile(values, 99),
        max=max(values),
    )


def _round(value: float) -> float:
    """Three digits behind the point, which is finer than any clock of a network."""
    return round(value, 3)
