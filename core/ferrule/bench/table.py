"""The figures as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from ferrule.bench.report import Point

_RATES = ("req/s", "output\ntok/s", "total\ntok/s")
_LATENCIES = ("TTFT ms\np50", "\np90", "\np99", "ITL ms\np50", "\np99", "E2E ms\np50")
_NUM_ERRORS = 3
_ANY_WIDTH = 1000


def print_points(points: Sequence[Point], console: Console) -> None:
    """Writes one row a point; none of its figures is shortened to fit.

    Args:
        points: At least one, all of one kind of load.
        console: Where to; it is made wide enough.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in column_names(points):
        table.add_column(name, justify="right", vertical="bottom")
    for point in points:
        table.add_row(*cells(point), style="red" if point.failed else "")
    unbounded = console.options.update(width=_ANY_WIDTH)
    # A terminal folds what is wider than itself; rich would cut digits off.
    console.width = max(console.width, Measurement.get(console, unbounded, table).maximum)
    console.print(table)


def column_names(points: Sequence[Point]) -> list[str]:
    """What stands above the cells; a line feed parts the two lines of a name."""
    load = "clients" if points[0].rate is None else "rate /s"
    return [load, "requests", "failed", *_RATES, *_LATENCIES]


def cells(point: Point) -> list[str]:
    """The figures of a point, as text; a dash where there is none."""
    load = point.concurrency if point.rate is None else point.rate
    return [
        f"{load:g}",
        str(point.requests),
        str(point.failed),
        _figure(point.requests_per_second),
        _figure(point.output_tok_s),
        _figure(point.total_tok_s),
        *map(_figure, (point.ttft_ms.p50, point.ttft_ms.p90, point.ttft_ms.p99)),
        *map(_figure, (point.itl_ms.p50, point.itl_ms.p99)),
        _figure(point.e2e_ms.p50),
    ]


def error_lines(points: Sequence[Point]) -> Iterator[str]:
    """The first few different errors, with how often each came."""
    counts: dict[str, int] = {}
    for point in points:
        for each in point.errors:
            counts[each.error] = counts.get(each.error, 0) + each.count
    for error, count in list(counts.items())[:_NUM_ERRORS]:
        yield f"{count} failed: {error}"
    if len(counts) > _NUM_ERRORS:
        yield f"and {len(counts) - _NUM_ERRORS} more kinds of errors"


def _figure(value: float | None) -> str:
    """Three digits or more, as many as are worth reading."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
