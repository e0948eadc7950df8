"""Points as a measurement gives them, for tests of what is made of them."""

from __future__ import annotations

from ferrule.bench.report import ErrorCount, Point, Report, Spread
from ferrule.bench.settings import Settings, make_loads
from ferrule.bench.workload import FixedLengths


def make_point(*, concurrency=None, rate=None, errors=(), p50=12.34, output_tok_s=1234.5):
    spread = Spread()
    if p50 is not None:
        spread = Spread(mean=p50, p50=p50, p90=p50 * 2, p99=p50 * 3, max=p50 * 4)
    return Point(
        concurrency=concurrency,
        rate=rate,
        requests=16,
        failed=sum(count for _, count in errors),
        errors=[ErrorCount(error=error, count=count) for error, count in errors],
        seconds=2.0,
        requests_per_second=8.0,
        prompt_tokens=1000,
        cached_tokens=0,
        output_tokens=2469,
        output_tok_s=output_tok_s,
        total_tok_s=1734.5,
        ttft_ms=spread,
        itl_ms=spread,
        e2e_ms=spread,
    )


def make_report(points, notes=()):
    return Report(
        ferrule="0.1.0",
        date="2026-11-24T00:00:00+00:00",
        target="http://127.0.0.1:8000",
        mode="url",
        model="some<model>",
        settings=Settings(loads=make_loads((1,), (), None), workload=FixedLengths()),
        points=list(points),
        notes=list(notes),
    )
