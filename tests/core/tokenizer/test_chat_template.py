import copy
import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from ferrule.errors import RequestError, TokenizerError
from ferrule.tokenizer.chat_template import ChatTemplate

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
TEMPLATES = {
    file.stem: file.read_text() for file in (Path(__file__).parent / "templates").glob("*.jinja")
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": 'Weather & <more> of a "city", é',
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"enum": [1, 2, None]}},
                "required": ["city"],
            },
        },
    }
    for name in ("get_weather", "get_climate")
]


def said(role, content, **more):
    return {"role": role, "content": content, **more}


def call(arguments):
    function = {"name": "get_weather", "arguments": arguments}
    return {"id": "abcDEF123", "type": "function", "function": function}


CALL = {"role": "assistant", "tool_calls": [call({"city": "Zürich <1>", "days": 2})]}
RESULT = said("tool", '{"celsius": 3}', tool_call_id="abcDEF123", name="get_weather")
CONVERSATIONS = {
    "one": ([said("user", " Hi  there <b>&amp;</b>\n")], None),
    "system": ([said("system", "Be brief. "), said("user", "a\nnest\n b ")], None),
    "empty system": ([said("system", ""), said("user", "a")], None),
    "turns": (
        [said("user", "a"), said("assistant", " b "), said("user", "c"), said("assistant", "d")],
        None,
    ),
    "tools": ([said("system", "s"), said("user", "weather?")], TOOLS),
    "call": ([said("user", "weather?"), CALL, RESULT], TOOLS),
    "after call": (
        [said("user", "weather?"), CALL, RESULT, said("assistant", "3°"), said("user", "thanks")],
        TOOLS,
    ),
    "wrong turns": ([said("user", "a"), said("user", "b")], None),
    "other roles": (
        [said("user", "a"), said("skip", "b"), said("stop", "c"), said("x", "d")],
        None,
    ),
    "nulls": ([said("user", "a", name=None), said("assistant", "b", tool_calls=None)], None),
    "reasoning": (
        [said("user", "a"), said("assistant", "b", reasoning="because"), said("user", "c")],
        None,
    ),
}


@pytest.fixture(scope="module")
def reference():
    """transformers' own renderer."""
    backend = tokenizers.Tokenizer(models.WordLevel(vocab={"<unk>": 0}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)

    def render(source, messages, **options):
        return tokenizer.apply_chat_template(
            copy.deepcopy(messages), chat_template=source, tokenize=False, **options
        )

    return render


def outcome(render, error):
    """The text, or the error's kind: only whether both refuse is compared, not the wording."""
    try:
        return render()
    except error:
        return "refused"


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_text_is_that_of_transformers(reference, name, conversation, add_generation_prompt):
    messages, tools = CONVERSATIONS[conversation]
    options = {"tools": tools, "add_generation_prompt": add_generation_prompt}
    template = ChatTemplate(TEMPLATES[name], SPECIAL)
    ours = outcome(lambda: template.render(messages, **options), RequestError)
    theirs = outcome(lambda: reference(TEMPLATES[name], messages, **options), Exception)
    assert ours == theirs


def test_every_template_renders_most_conversations():
    for name, source in TEMPLATES.items():
        template = ChatTemplate(source, SPECIAL)
        texts = [
            outcome(lambda m=m, t=t, r=template.render: r(m, tools=t), RequestError)
            for m, t in CONVERSATIONS.values()
        ]
        assert texts.count("refused") <= 2, name


@pytest.mark.parametrize("content", ["The answer", "trailing space ", "two\nlines\n", " x"])
@pytest.mark.parametrize("name", sorted(TEMPLATES.keys() - {"features"}))
def test_continued_message_is_that_of_transformers(reference, name, content):
    messages = [said("user", "a"), said("assistant", content)]
    options = {"continue_final_message": True, "add_generation_prompt": False}
    ours = ChatTemplate(TEMPLATES[name], SPECIAL).render(messages, **options)
    assert ours == reference(TEMPLATES[name], messages, **options)
    assert ours.rstrip().endswith(content.strip())


def test_continued_message_may_have_its_text_in_parts(reference):
    source = "{% for m in messages %}{% for p in m.content %}{{ p.text }};{% endfor %}{% endfor %}"
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two "}]
    options = {"continue_final_message": True, "add_generation_prompt": False}
    ours = ChatTemplate(source, {}).render([said("assistant", parts)], **options)
    assert ours == reference(source, [said("assistant", parts)], **options) == "one;two "
    assert parts[-1]["text"] == "two "


def test_template_of_a_gguf_file_renders_like_transformers(reference, vocab_metadata):
    source = vocab_metadata("qwen2")["tokenizer.chat_template"]
    for messages, _ in CONVERSATIONS.values():
        ours = outcome(lambda m=messages: ChatTemplate(source, SPECIAL).render(m), RequestError)
        theirs = outcome(
            lambda m=messages: reference(source, m, add_generation_prompt=True), Exception
        )
        assert ours == theirs


def test_more_variables_go_before_special_tokens(reference):
    options = {"date_string": "1 May 2020", "bos_token": "<B>", "tools_in_user_message": False}
    messages, tools = CONVERSATIONS["tools"]
    source = TEMPLATES["llama3-tools"]
    ours = ChatTemplate(source, SPECIAL).render(messages, tools=tools, **options)
    assert ours == reference(source, messages, tools=tools, add_generation_prompt=True, **options)
    assert ours.startswith("<B>")
    assert "1 May 2020" in ours


def test_documents_reach_the_template(reference):
    documents = [{"title": "T", "text": "body"}, {"text": "x"}]
    messages = [said("user", "a")]
    ours = ChatTemplate(TEMPLATES["features"], SPECIAL).render(messages, documents=documents)
    assert "<T>body<untitled>x" in ours
    assert ours == reference(
        TEMPLATES["features"], messages, documents=documents, add_generation_prompt=True
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_arguments_as_json_text_render_as_an_object(name):
    template = ChatTemplate(TEMPLATES[name], SPECIAL)
    as_object = [said("user", "a"), CALL, RESULT]
    as_text = copy.deepcopy(as_object)
    function = as_text[1]["tool_calls"][0]["function"]
    function["arguments"] = json.dumps(function["arguments"])
    assert template.render(as_text, tools=TOOLS) == template.render(as_object, tools=TOOLS)
    assert isinstance(function["arguments"], str)


@pytest.mark.parametrize(
    "source",
    [
        "{{ '>' + messages[0].tool_calls[0].function.arguments }}",
        "{{ '>' ~ messages[0].tool_calls[0].function.arguments }}",
        "{{ '>' }}{{ messages[0].tool_calls[0].function.arguments }}",
    ],
)
def test_template_made_for_arguments_as_text_gets_the_text(source):
    messages = [{"role": "assistant", "tool_calls": [call('{"city":  "Bern"}')]}]
    assert ChatTemplate(source, {}).render(messages) == '>{"city":  "Bern"}'


def test_tools_have_a_template_of_their_own_where_there_is_one():
    template = ChatTemplate("plain", {}, tools_source="with tools")
    assert template.render([said("user", "a")]) == "plain"
    assert template.render([said("user", "a")], tools=TOOLS) == "with tools"


def test_callers_messages_are_left_alone():
    messages = [said("user", "a"), said("assistant", "b", reasoning="r", tool_calls=[call("{}")])]
    before = copy.deepcopy(messages)
    template = ChatTemplate(TEMPLATES["chatml-tools"], SPECIAL)
    template.render(messages)
    template.render(messages, add_generation_prompt=False, continue_final_message=False)
    assert messages == before


def test_refusal_of_the_template_is_the_requests_mistake():
    messages = [said("user", "a"), said("user", "b")]
    expected = "refuses the conversation: After the optional system message"
    with pytest.raises(RequestError, match=expected) as caught:
        ChatTemplate(TEMPLATES["mistral-tools"], SPECIAL).render(messages)
    assert caught.value.param == "messages"


def test_conversation_that_breaks_the_template_is_the_requests_mistake():
    source = "line one\n{% for m in messages %}\n{{ 'x' + m.content }}\n{% endfor %}"
    with pytest.raises(RequestError, match=r"cannot render .*UndefinedError.*\(line 3 of the"):
        ChatTemplate(source, {}).render([{"role": "user"}])


def test_broken_template_is_refused_at_once_with_its_line():
    with pytest.raises(TokenizerError, match=r"broken in line 3: .*'endfor'") as caught:
        ChatTemplate("a\n{% for m in messages %}\n{{ m }}\n", {})
    assert "--chat-template" in caught.value.hint
    with pytest.raises(TokenizerError, match=r"broken in line 3: [^\n]*\n +\{\{ 1 \+ \}\}"):
        ChatTemplate("a\nb\n{{ 1 + }}\nc", {})


def test_template_nested_too_deeply_is_refused():
    source = "{% for a in [1] %}" * 40 + "{% endfor %}" * 40
    with pytest.raises(TokenizerError, match="nested too deeply"):
        ChatTemplate(source, {})


@pytest.mark.parametrize(
    ("messages", "options", "message"),
    [
        ([], {}, "messages is empty"),
        (["hi"], {}, r"messages\[0\] is a str; expected an object"),
        ([said("user", "a")], {"continue_final_message": True}, "are both set"),
        (
            [{"role": "assistant", "tool_calls": []}],
            {"continue_final_message": True, "add_generation_prompt": False},
            "has no text to continue",
        ),
        ([said("user", object())], {}, r"messages\[0\]\.content is a object"),
        ([said("user", "a")], {"thinking": {1}}, "thinking is a set"),
    ],
)
def test_wrong_request_is_refused(messages, options, message):
    with pytest.raises(RequestError, match=message):
        ChatTemplate("{{ messages[0].content }}", {}).render(messages, **options)


def test_request_nested_without_end_is_refused():
    content = []
    content.append(content)
    with pytest.raises(RequestError, match="nested too deeply"):
        ChatTemplate("", {}).render([said("user", content)])


@pytest.mark.parametrize("source", ["nothing", "{{ messages[-1].content|replace('b', 'c') }}"])
def test_message_that_the_template_leaves_out_or_changes_cannot_be_continued(source):
    with pytest.raises(RequestError, match="leaves out or changes"):
        ChatTemplate(source, {}).render(
            [said("assistant", "abc")], add_generation_prompt=False, continue_final_message=True
        )
