from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ferrule.frontend.stop_strings import StopStrings

# Few letters, so that stop strings and their beginnings occur often.
TEXT = st.text(alphabet="ab", max_size=30)
STOPS = st.lists(st.text(alphabet="ab", min_size=1, max_size=5), min_size=1, max_size=3)


def test_text_that_cannot_begin_a_stop_string_passes_at_once():
    assert StopStrings(["\n\nHuman:"]).push("Hello") == "Hello"


def test_beginning_of_a_stop_string_is_held_back_and_given_up():
    stops = StopStrings(["STOP"])
    assert [stops.push("a ST"), stops.push("O"), stops.push("re")] == ["a ", "", "STOre"]
    assert stops.matched is None


def test_stop_string_over_several_pieces_is_cut():
    stops = StopStrings(["STOP"])
    assert [stops.push("one S"), stops.push("TO"), stops.push("P two")] == ["one ", "", ""]
    assert stops.matched == "STOP"
    assert stops.push("three") == ""
    assert stops.flush() == ""


def test_earliest_of_several_wins():
    stops = StopStrings(["late", "early"])
    assert stops.push("some early or late text") == "some "
    assert stops.matched == "early"


def test_held_text_comes_out_at_the_end():
    stops = StopStrings(["STOP"])
    assert stops.push("the ST") == "the "
    assert stops.flush() == "ST"


def test_a_beginning_within_a_beginning_is_found():
    stops = StopStrings(["aab"])
    assert stops.push("aa") + stops.push("a") + stops.push("b") == "a"
    assert stops.matched == "aab"


@given(text=TEXT, stops=STOPS, data=st.data())
def test_any_cutting_gives_the_text_before_the_stop_string_that_is_complete_first(
    text, stops, data
):
    ends = [(text.find(s) + len(s), text.find(s)) for s in stops if s in text]
    tracker = StopStrings(stops)
    out = ""
    position = 0
    while position < len(text) and tracker.matched is None:
        size = data.draw(st.integers(1, 1 + len(text) // 3))
        out += tracker.push(text[position : position + size])
        position += size
        # What is out is final: it is never part of a stop string.
        assert text.startswith(out)
        assert not any(s in out for s in stops)
    out += tracker.flush()
    if not ends:
        assert out == text
    else:
        assert tracker.matched is not None
        assert text[len(out) :].startswith(tracker.matched)
        assert position >= min(ends)[0]
