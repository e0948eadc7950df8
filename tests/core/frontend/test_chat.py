from __future__ import annotations

import dataclasses

import pytest

from ferrule.errors import RequestError
from ferrule.frontend.chat import render_chat
from ferrule.tokenizer.chat_template import ChatTemplate

USER = {"role": "user", "content": "hi"}


def rendered(model, messages, **options) -> str:
    tokens = render_chat(model, messages, **options)
    return model.tokenizer.decode(tokens, skip_special_tokens=False)


def test_template_writes_the_only_bos(model):
    assert rendered(model, [USER]) == "<s>[user]hi[assistant]"


def test_text_parts_are_joined(model):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert rendered(model, [{"role": "user", "content": parts}]) == "<s>[user]one\ntwo[assistant]"


@pytest.mark.parametrize(
    "part", [{"type": "image_url", "image_url": {"url": "data:"}}, {"text": "x"}, "x"]
)
def test_parts_that_are_not_text_are_refused_by_place(model, part):
    message = {"role": "user", "content": [{"type": "text", "text": "see"}, part]}
    with pytest.raises(RequestError, match="text only") as caught:
        render_chat(model, [USER, message])
    assert caught.value.param == "messages[1].content[1]"


def test_developer_is_the_system(model):
    assert rendered(model, [{"role": "developer", "content": "be brief"}]).startswith(
        "<s>[system]be brief"
    )


def test_what_the_schema_does_not_know_reaches_the_template(model):
    assert "hi(glad)" in rendered(model, [{**USER, "mood": "glad"}])


def test_tools_and_template_kwargs_reach_the_template(model):
    tool = {"type": "function", "function": {"name": "f"}}
    text = rendered(model, [USER], tools=[tool], template_kwargs={"shout": True})
    assert text.startswith('<s>tools:[{"type"')
    assert text.endswith("!" + "[assistant]")


def test_no_tools_are_like_none(model):
    assert "tools" not in rendered(model, [USER], tools=[])


def test_last_message_can_be_continued(model):
    messages = [USER, {"role": "assistant", "content": "Well, "}]
    assert rendered(model, messages, continue_final_message=True).endswith("[assistant]Well, ")


def test_generation_prompt_can_be_left_out(model):
    assert rendered(model, [USER], add_generation_prompt=False) == "<s>[user]hi"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        (
            {"add_generation_prompt": True, "continue_final_message": True},
            "continue_final_message",
        ),
        ({"template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    ],
)
def test_contradictions_are_refused(model, options, param):
    with pytest.raises(RequestError) as caught:
        render_chat(model, [USER], **options)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"content": "hi"}, "messages[0].role"),
    ],
)
def test_incomplete_message_is_refused_by_place(model, message, param):
    with pytest.raises(RequestError) as caught:
        render_chat(model, [message])
    assert caught.value.param == param


def test_assistant_with_tool_calls_needs_no_content(model):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert "[assistant]" in rendered(model, messages)


def test_refusal_of_the_template_is_the_clients_mistake(model):
    with pytest.raises(RequestError, match="no such role") as caught:
        render_chat(model, [{"role": "forbidden", "content": "x"}])
    assert caught.value.param == "messages"


def test_no_messages_are_refused(model):
    with pytest.raises(RequestError, match="at least one") as caught:
        render_chat(model, [])
    assert caught.value.param == "messages"


def test_model_without_a_template_says_what_helps(model):
    with pytest.raises(RequestError, match=r"no chat template(.|\n)*--chat-template"):
        render_chat(dataclasses.replace(model, template=None), [USER])


def test_model_without_a_tokenizer_says_what_helps(model):
    with pytest.raises(RequestError, match=r"no tokenizer(.|\n)*token ids"):
        render_chat(dataclasses.replace(model, template=None, tokenizer=None), [USER])


def test_template_that_is_stopped_is_an_error_of_this_request(model):
    endless = ChatTemplate("{% for i in range(99999) %}xxxxxxxx{% endfor %}", {}, max_characters=99)
    with pytest.raises(RequestError, match="stopped") as caught:
        render_chat(dataclasses.replace(model, template=endless), [USER])
    assert caught.value.param == "messages"
