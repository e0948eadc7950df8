from __future__ import annotations

import json

import pytest

from ferrule.bench.dataset import Conversation, read_conversations
from ferrule.errors import OptionError

QUESTION = "What is the capital of France?"
ANSWER = "It is Paris, a city on the Seine."


def talk(*turns):
    return {"id": "x", "conversations": [{"from": who, "value": text} for who, text in turns]}


@pytest.fixture
def read(tmp_path):
    """``read(text)`` reads a file of this text."""

    def run(text):
        path = tmp_path / "talks.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_conversations(str(path))

    return run


def test_the_first_question_is_the_prompt_and_its_answers_words_the_length(read):
    turns = (("human", QUESTION), ("gpt", ANSWER), ("human", "Thanks a lot for it."), ("gpt", "x"))
    found = read(json.dumps([talk(*turns)]))
    # Eight words, 1.3 tokens each.
    assert found.conversations == (Conversation(question=QUESTION, output_len=10),)
    assert found.notes == ()


@pytest.mark.parametrize(
    "turns",
    [
        [("gpt", "And so on and on."), ("user", QUESTION), ("chatgpt", ANSWER)],
        [("system", "Be brief, please, always."), ("human", QUESTION), ("bing", ANSWER)],
    ],
)
def test_what_stands_before_the_first_question_is_left_out(read, turns):
    (found,) = read(json.dumps([talk(*turns)])).conversations
    assert found.question == QUESTION


@pytest.mark.parametrize(
    "useless",
    [
        talk(),
        talk(("human", QUESTION)),
        talk(("human", QUESTION), ("human", ANSWER)),
        talk(("human", "Hi"), ("gpt", ANSWER)),
        talk(("human", QUESTION), ("gpt", "Paris")),
        talk(("human", "word " * 800), ("gpt", ANSWER)),
        talk(("human", "word " * 700), ("gpt", "word " * 900)),
        talk(("human", None), ("gpt", ANSWER)),
        {"conversations": ["text"]},
        {"conversations": "text"},
        ["text"],
    ],
)
def test_what_is_no_conversation_of_use_is_left_out(read, useless):
    found = read(json.dumps([useless, talk(("human", QUESTION), ("gpt", ANSWER))]))
    assert len(found.conversations) == 1
    with pytest.raises(OptionError, match="no conversation of use"):
        read(json.dumps([useless]))


@pytest.mark.parametrize("left", [1, 20, 90, 150])
def test_a_file_that_is_cut_off_is_read_as_far_as_it_goes(read, left):
    whole = talk(("human", QUESTION), ("gpt", ANSWER))
    text = json.dumps([whole, whole], indent=1)
    cut = text[: len(text) - left]
    found = read(cut)
    assert len(found.conversations) == (2 if left == 1 else 1)
    (note,) = found.notes
    assert "is cut off or broken after" in note


def test_a_file_may_be_cut_within_a_character(read):
    whole = json.dumps(talk(("human", QUESTION), ("gpt", ANSWER)))
    text = f'[{whole}, {{"conversations": [{{"from": "human", "value": "é'.encode()[:-1]
    assert len(read(text).conversations) == 1


def test_a_byte_order_mark_does_not_matter(read):
    found = read("\ufeff\n" + json.dumps([talk(("human", QUESTION), ("gpt", ANSWER))]))
    assert len(found.conversations) == 1


@pytest.mark.parametrize("text", ["", "{}", '{"conversations": []}', "[", "[{]"])
def test_what_is_no_such_file_is_refused(read, text):
    with pytest.raises(OptionError, match="not in ShareGPT's format"):
        read(text)


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(OptionError, match="Is a directory"):
        read_conversations(str(tmp_path))
