from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ferrule.bench.events import EventLines

STREAM = b': hello\r\n\r\ndata: {"a": 1}\r\n\r\nevent: x\ndata:{"b": 2}\n\ndata: [DONE]\n\n'
FOUND = [b'{"a": 1}', b'{"b": 2}', b"[DONE]"]


@given(st.lists(st.integers(0, len(STREAM))))
def test_events_are_found_however_the_stream_is_cut(cuts):
    places = [0, *sorted(cuts), len(STREAM)]
    lines = EventLines()
    parts = [STREAM[a:b] for a, b in itertools.pairwise(places)]
    assert [data for part in parts for data in lines.feed(part)] == FOUND


def test_a_line_counts_when_it_has_ended():
    lines = EventLines()
    assert list(lines.feed(b"data: 1")) == []
    assert list(lines.feed(b"2\n")) == [b"12"]
