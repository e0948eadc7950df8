"""A report as a page that stands for itself: charts, a table, and how it was measured."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path

from ferrule.bench.chart import Chart, Line
from ferrule.bench.report import Point, Report, Spread
from ferrule.bench.table import cells, column_names

_TARGETS = {
    "url": "The server at {}",
    "server": "The checkpoint {}, served for this measurement",
    "in-process": "The checkpoint {}, in the process that measured",
}


def html_page(report: Report) -> str:
    """The page's text; it needs nothing from elsewhere.

    Args:
        report: With at least one point.
    """
    settings = report.settings
    lines = [
        _TARGETS[report.mode].format(report.target),
        f"Requests: {settings.workload.describe()}; seed {settings.seed}, "
        f"temperature {settings.temperature:g}",
        f"Measured by ferrule {report.ferrule}, {report.date}",
        *(f"Note: {note}" for note in report.notes),
    ]
    title = html.escape(f"ferrule bench: {report.model}")
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{title}</title>\n<style>\n{_style()}</style>",
            f"<h1>{title}</h1>",
            *(f"<p>{html.escape(line)}</p>" for line in lines),
            '<div class="charts">',
            *(chart.svg() for chart in _charts(report.points)),
            '</div>\n<div class="wide">',
            *_table(report.points),
            "</div>\n</html>\n",
        )
    )


def _style() -> str:
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def _charts(points: Sequence[Point]) -> Iterator[Chart]:
    is_open = points[0].rate is not None
    ordered = sorted(points, key=_load)
    xs = [_load(point) for point in ordered]

    def chart(title: str, *lines: Line) -> Chart:
        # Rates are compared by their difference, numbers of clients by their ratio.
        x_label = "requests a second" if is_open else "clients"
        return Chart(title=title, x_label=x_label, xs=xs, is_log=not is_open, lines=lines)

    def spread(title: str, spreads: Sequence[Spread]) -> Chart:
        return chart(
            title,
            Line(label="p50", values=[each.p50 for each in spreads]),
            Line(label="p90", values=[each.p90 for each in spreads]),
            Line(label="p99", values=[each.p99 for each in spreads]),
        )

    output = [point.output_tok_s for point in ordered]
    yield chart("Throughput, output tokens a second", Line(label="", values=output))
    yield spread("Time to the first token, ms", [point.ttft_ms for point in ordered])
    yield spread("Time between tokens, ms", [point.itl_ms for point in ordered])
    yield spread("Whole request, ms", [point.e2e_ms for point in ordered])


def _load(point: Point) -> float:
    return point.concurrency or point.rate or 0.0


def _table(points: Sequence[Point]) -> Iterator[str]:
    yield "<table>"
    yield _row("th", column_names(points))
    for point in points:
        yield _row("td", cells(point))
    yield "</table>"


def _row(tag: str, texts: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(text)}</{tag}>' for text in texts)}</tr>"
