from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from ferrule.bench.page import html_page


def charts(page):
    return [ElementTree.fromstring(each) for each in re.findall(r"<svg.*?</svg>", page, re.S)]


def titles(page):
    return [each.get("aria-label") for each in charts(page)]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("concurrency", ["clients 1: p50 10", "clients 8: p50 20"]),
        ("rate", ["requests a second 1: p50 10", "requests a second 8: p50 20"]),
    ],
)
def test_every_chart_has_every_point(make_point, make_report, kind, told):
    points = [make_point(**{kind: 8}, p50=20), make_point(**{kind: 1}, p50=10)]
    page = html_page(make_report(points))
    assert titles(page) == [
        "Throughput, output tokens a second",
        "Time to the first token, ms",
        "Time between tokens, ms",
        "Whole request, ms",
    ]
    for chart, num_lines in zip(charts(page), (1, 3, 3, 3), strict=True):
        assert len(list(chart.iter("circle"))) == 2 * num_lines
    assert [each.text for each in charts(page)[1].iter("title")][:2] == told


def test_the_table_has_the_points_in_their_order(make_point, make_report):
    page = html_page(make_report([make_point(concurrency=8), make_point(concurrency=1)]))
    assert re.findall(r"<tr><td>(\d+)</td>", page) == ["8", "1"]
    assert "<td>1234</td>" in page


def test_the_page_says_what_was_measured_and_stands_for_itself(make_point, make_report):
    page = html_page(make_report([make_point(concurrency=8)], notes=["a < b"]))
    assert "<title>ferrule bench: some&lt;model&gt;</title>" in page
    assert "1024 tokens in, 256 out" in page
    assert "The server at http://127.0.0.1:8000" in page
    assert "Note: a &lt; b" in page
    assert not re.search(r"<script|<link|src=|url\(", page)


def test_points_without_answers_can_be_drawn(make_point, make_report):
    point = make_point(concurrency=8, p50=None, output_tok_s=0.0, errors=[("lost", 16)])
    page = html_page(make_report([point]))
    assert [len(list(each.iter("circle"))) for each in charts(page)] == [1, 0, 0, 0]
