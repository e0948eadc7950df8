import enum
import json
from types import MappingProxyType

import pytest

from ferrule.errors import RequestError
from ferrule.tokenizer.chat_messages import parse_arguments, plain, prepare_messages


class Role(enum.StrEnum):
    USER = "user"


def call(arguments):
    return {"type": "function", "function": {"arguments": arguments, "name": "f"}, "id": "1"}


def arguments_of(text):
    [message] = parse_arguments([{"role": "assistant", "tool_calls": [call(text)]}])
    return message["tool_calls"][0]["function"]["arguments"]


def test_copy_is_made_of_json_types():
    value = {"a": (1, 2.5, None, True), "b": MappingProxyType({"c": [Role.USER]})}
    copied = plain(value, "x")
    assert copied == {"a": [1, 2.5, None, True], "b": {"c": ["user"]}}
    assert type(copied["b"]["c"][0]) is str


def test_value_without_counterpart_in_json_is_refused_with_its_place():
    with pytest.raises(RequestError, match=r"x\.a\[1\]\.b is a set") as caught:
        plain({"a": [0, {"b": {1}}]}, "x")
    assert caught.value.param == "x.a[1].b"


def test_nulls_are_left_out():
    [message] = prepare_messages([{"role": "user", "content": None, "parts": [None]}])
    assert message == {"role": "user", "parts": [None]}


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_has_the_names_that_templates_read(name):
    [message] = prepare_messages([{"role": "assistant", name: "why"}])
    assert message["reasoning_content"] == message["thinking"] == "why"


def test_messages_must_be_objects_and_at_least_one():
    with pytest.raises(RequestError, match="at least one"):
        prepare_messages([])
    with pytest.raises(RequestError, match=r"messages\[1\] is a list"):
        prepare_messages([{"role": "user"}, []])


def test_arguments_become_an_object_that_prints_as_its_text():
    text = '{"b":1,  "a": "é"}'
    arguments = arguments_of(text)
    assert arguments == {"b": 1, "a": "é"}
    assert str(arguments) == text
    assert json.dumps(arguments) == json.dumps(json.loads(text))


def test_no_arguments_are_an_empty_object():
    assert arguments_of("") == arguments_of(" ") == {}


@pytest.mark.parametrize("text", ["not json", "[1]", "5", '"x"', "{", "[" * 100_000])
def test_text_that_is_no_json_object_stays(text):
    assert arguments_of(text) == text


def test_arguments_keep_their_place_in_the_call():
    [message] = parse_arguments([{"tool_calls": [call("{}")], "role": "assistant"}])
    assert list(message) == ["tool_calls", "role"]
    assert list(message["tool_calls"][0]) == ["type", "function", "id"]
    assert list(message["tool_calls"][0]["function"]) == ["arguments", "name"]


@pytest.mark.parametrize(
    "calls", [[call({"a": 1})], [{"id": 1}], [{"function": None}], "text", [], None, ["x"]]
)
def test_conversation_without_arguments_as_text_is_returned_itself(calls):
    messages = [{"role": "assistant", "tool_calls": calls}]
    assert parse_arguments(messages) is messages
