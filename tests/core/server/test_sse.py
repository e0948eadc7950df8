from __future__ import annotations

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ferrule.server.sse import DONE, GAP, TextEvent, event


class Chunk(msgspec.Struct):
    before: str
    text: str
    after: int = 5


@given(st.text())
def test_text_event_equals_the_event_encoded_as_a_whole(text):
    prepared = TextEvent(Chunk('a "quoted" name', GAP))
    assert prepared.encode(text) == event(Chunk('a "quoted" name', text))


@given(st.text())
def test_an_event_is_one_line_whatever_it_holds(text):
    data = event(Chunk("", text))
    assert data.startswith(b"data: ")
    assert data.endswith(b"\n\n")
    assert len(data.splitlines()) == 2
    assert json.loads(data[6:])["text"] == text


def test_end_of_a_stream():
    assert DONE == b"data: [DONE]\n\n"
