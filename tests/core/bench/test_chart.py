from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import pytest

from ferrule.bench.chart import Chart, Line


def draw(values, *, xs=(1, 2, 4), is_log=False, title="a title"):
    lines = [Line(label=label, values=each) for label, each in values.items()]
    svg = Chart(title=title, x_label="clients", xs=xs, is_log=is_log, lines=lines).svg()
    return ElementTree.fromstring(svg)


def dots(svg, kind="s0"):
    return [
        (float(each.get("cx")), float(each.get("cy")))
        for each in svg.iter("circle")
        if each.get("class") == f"dot {kind}"
    ]


def texts(svg, kind):
    return [each.text for each in svg.iter("text") if each.get("class") == kind]


def test_every_point_is_a_dot_that_tells_its_value():
    svg = draw({"p50": (10, 20, 40)})
    told = [each.text for each in svg.iter("title")]
    assert told == ["clients 1: p50 10", "clients 2: p50 20", "clients 4: p50 40"]
    assert len(dots(svg)) == 3


def test_heights_are_in_proportion_from_zero():
    (_, low), (_, middle), (_, high) = dots(draw({"p50": (10, 20, 40)}))
    (zero,) = (float(e.get("y")) for e in draw({"p50": (10, 20, 40)}).iter("text") if e.text == "0")
    zero -= 4  # a text stands lower than its line
    assert (zero - high) == pytest.approx(4 * (zero - low), abs=0.5)
    assert (zero - middle) == pytest.approx(2 * (zero - low), abs=0.5)


@pytest.mark.parametrize(("is_log", "share"), [(True, 1 / 2), (False, 1 / 3)])
def test_places_are_by_ratio_or_by_difference(is_log, share):
    (first, _), (second, _), (last, _) = dots(draw({"p50": (1, 1, 1)}, is_log=is_log))
    assert (second - first) / (last - first) == pytest.approx(share, abs=0.01)


def test_a_missing_value_is_left_out():
    svg = draw({"p50": (10, None, 40), "p99": (None, None, None)})
    assert len(dots(svg)) == 2
    assert dots(svg, "s1") == []


@pytest.mark.parametrize(
    ("highest", "ticks"),
    [
        (40, ["0", "10", "20", "30", "40"]),
        (4700, ["0", "1,000", "2,000", "3,000", "4,000", "5,000"]),
        (0.29, ["0", "0.1", "0.2", "0.3"]),
        (0, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
    ],
)
def test_ticks_are_round_numbers(highest, ticks):
    svg = draw({"p50": (highest / 4, highest / 2, highest)})
    assert [text for text in texts(svg, "tick") if text != "clients"][: len(ticks)] == ticks


def test_labels_at_the_ends_do_not_cover_each_other():
    svg = draw({"p50": (1, 1, 5.0), "p90": (1, 1, 5.1), "p99": (1, 1, 5.2)})
    heights = [float(e.get("y")) for e in svg.iter("text") if e.get("class").startswith("label")]
    assert all(low - high >= 13 for low, high in itertools.pairwise(heights))


def test_numbers_below_crowded_places_are_left_out():
    svg = draw({"p50": (1, 1, 1, 1)}, xs=(1, 2, 50, 100))
    assert [text for text in texts(svg, "tick") if re.fullmatch(r"1|2|50|100", text)][-3:] == [
        "1",
        "50",
        "100",
    ]


def test_one_point_stands_in_the_middle():
    ((x, _),) = dots(draw({"p50": (1,)}, xs=(8,)))
    assert 200 < x < 290


def test_texts_are_escaped():
    assert texts(draw({"p50": (1, 1, 1)}, title="a <b> & c"), "title") == ["a <b> & c"]
