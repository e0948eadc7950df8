from __future__ import annotations

import io

from rich.console import Console

from ferrule.bench.table import cells, column_names, error_lines, print_points


def shown(points, width=160):
    console = Console(file=io.StringIO(), width=width)
    print_points(points, console)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_each_point_is_a_row(make_point):
    points = [make_point(concurrency=1), make_point(concurrency=64, p50=123.4)]
    first, second = shown(points)[2:]
    assert first == "1 16 0 8.00 1234 1734 12.3 24.7 37.0 12.3 37.0 12.3"
    assert second == "64 16 0 8.00 1234 1734 123 247 370 123 370 123"


def test_columns_carry_their_units(make_point):
    above, below = shown([make_point(rate=2.5)])[:2]
    assert above == "output total TTFT ms ITL ms E2E ms"
    assert below == "rate /s requests failed req/s tok/s tok/s p50 p90 p99 p50 p99 p50"


def test_no_figure_is_shortened_on_a_narrow_terminal(make_point):
    points = [make_point(concurrency=64, p50=12345.6)]
    assert shown(points, width=40) == shown(points)


def test_a_load_is_named_by_its_kind(make_point):
    for point, name, load in (
        (make_point(concurrency=8), "clients", "8"),
        (make_point(rate=2.5), "rate /s", "2.5"),
    ):
        assert column_names([point])[0] == name
        assert cells(point)[0] == load
        assert len(cells(point)) == len(column_names([point]))


def test_a_figure_that_is_missing_is_a_dash(make_point):
    assert cells(make_point(concurrency=8, p50=None))[6:] == ["-"] * 6


def test_the_first_three_errors_of_all_points_are_told(make_point):
    points = [
        make_point(concurrency=1, errors=[("a", 2), ("b", 1)]),
        make_point(concurrency=2, errors=[("b", 4), ("c", 1), ("d", 1)]),
    ]
    assert list(error_lines(points)) == [
        "2 failed: a",
        "5 failed: b",
        "1 failed: c",
        "and 1 more kinds of errors",
    ]
    assert list(error_lines([make_point(concurrency=1)])) == []
