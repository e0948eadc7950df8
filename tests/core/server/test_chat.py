from __future__ import annotations

import json

import pytest

PATH = "/v1/chat/completions"
RECITED = "Hello, wörld! 🦊 The quick brown fox."


def body(**fields):
    return {"model": "fake", "messages": [{"role": "user", "content": "hi"}], **fields}


def events(text):
    lines = text.removesuffix("\n\n").split("\n\n")
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]


async def test_answer_at_once(client, engine):
    engine.cached = 3
    response = await client.post(PATH, json=body())
    answer = response.json()
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "fake"
    assert answer["system_fingerprint"].startswith("ferrule-")
    [choice] = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": RECITED, "refusal": None}
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
    prompt = engine.requests[0].tokens
    assert answer["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": 29,
        "total_tokens": len(prompt) + 29,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    assert "prompt_token_ids" not in answer
    assert "token_ids" not in choice


async def test_stream_has_role_text_end_and_done(client):
    response = await client.post(PATH, json=body(stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    chunks = events(response.text)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert all("usage" not in chunk for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(choice["delta"].get("content", "") for choice in choices) == RECITED
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert (choices[-1]["delta"], choices[-1]["finish_reason"]) == ({}, "stop")


async def test_usage_chunk_comes_last_and_others_say_null(client):
    response = await client.post(
        PATH, json=body(stream=True, max_tokens=3, stream_options={"include_usage": True})
    )
    *chunks, last = events(response.text)
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3


async def test_every_sampling_field_reaches_the_engine(client, engine):
    fields = {
        "max_tokens": 99,
        "max_completion_tokens": 40,
        "min_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 30,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.4,
        "logit_bias": {"5": -100, "6": 2.5},
        "seed": 0,
        "stop": "never",
        "stop_token_ids": [7],
        "ignore_eos": True,
        "cache_salt": "mine",
    }
    assert (await client.post(PATH, json=body(**fields))).status_code == 200
    request = engine.requests[0]
    sampling = request.sampling
    assert sampling.max_tokens == 40
    assert sampling.logit_bias == {5: -100, 6: 2.5}
    assert sampling.stop == ("never",)
    assert request.stop_ids == (7,)
    assert request.cache_salt == "mine"
    for name in (
        "min_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "seed",
    ):
        assert getattr(sampling, name) == fields[name]


async def test_choices_are_numbered_and_the_prompt_counts_once(client, engine):
    answer = (await client.post(PATH, json=body(n=3, max_tokens=2, seed=5))).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert [request.sampling.seed for request in engine.requests] == [5, 6, 7]
    assert answer["usage"]["completion_tokens"] == 6
    assert answer["usage"]["prompt_tokens"] == len(engine.requests[0].tokens)


async def test_streamed_choices_each_have_a_beginning_and_an_end(client):
    response = await client.post(PATH, json=body(n=2, stream=True, max_tokens=2))
    for index in (0, 1):
        choices = [c["choices"][0] for c in events(response.text)]
        own = [choice for choice in choices if choice["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        assert own[-1]["finish_reason"] == "length"
        assert "".join(choice["delta"].get("content", "") for choice in own) == "Hello,"


async def test_stop_string_is_not_part_of_the_answer(client, engine):
    response = await client.post(PATH, json=body(stop=["quick", "nothing"], stream=True))
    choices = [chunk["choices"][0] for chunk in events(response.text)]
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    assert text == "Hello, wörld! 🦊 The "
    assert (choices[-1]["finish_reason"], choices[-1]["stop_reason"]) == ("stop", "quick")
    assert engine.running == set()
    assert len(engine.aborted) == 1


async def test_logprobs_have_openais_shape(client):
    fields = {"logprobs": True, "top_logprobs": 2, "max_tokens": 5}
    [choice] = (await client.post(PATH, json=body(**fields))).json()["choices"]
    content = choice["logprobs"]["content"]
    assert choice["logprobs"]["refusal"] is None
    assert [entry["token"] for entry in content] == ["Hello", ",", " ", "w", "bytes:\\xc3"]
    assert content[0]["bytes"] == list(b"Hello")
    assert content[4]["bytes"] == [0xC3]
    assert [len(entry["top_logprobs"]) for entry in content] == [2] * 5
    top = content[1]["top_logprobs"]
    assert top[0] == {"token": ",", "logprob": content[1]["logprob"], "bytes": [44]}
    assert top[1] == {"token": "-", "logprob": pytest.approx(top[0]["logprob"] - 1), "bytes": [45]}


async def test_streamed_logprobs_are_those_of_the_whole_answer(client):
    fields = {"logprobs": True, "top_logprobs": 1, "max_tokens": 20}
    [choice] = (await client.post(PATH, json=body(**fields))).json()["choices"]
    chunks = events((await client.post(PATH, json=body(**fields, stream=True))).text)
    streamed = [
        entry
        for chunk in chunks
        if chunk["choices"][0]["logprobs"]
        for entry in chunk["choices"][0]["logprobs"]["content"]
    ]
    assert streamed == choice["logprobs"]["content"]


async def test_logprobs_without_alternatives(client):
    [choice] = (await client.post(PATH, json=body(logprobs=True, max_tokens=1))).json()["choices"]
    assert choice["logprobs"]["content"][0]["top_logprobs"] == []


async def test_token_ids_on_demand(client, engine):
    answer = (await client.post(PATH, json=body(return_token_ids=True, max_tokens=3))).json()
    assert answer["prompt_token_ids"] == engine.requests[0].tokens
    assert answer["choices"][0]["token_ids"] == [261, 13, 222]
    response = await client.post(PATH, json=body(return_token_ids=True, max_tokens=3, stream=True))
    chunks = events(response.text)
    assert chunks[0]["prompt_token_ids"] == engine.requests[0].tokens
    streamed = [t for chunk in chunks for t in chunk["choices"][0].get("token_ids", [])]
    assert streamed == [261, 13, 222]


async def test_template_gets_tools_extra_message_fields_and_kwargs(client, engine, model):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"x": 1}}}
    message = {"role": "user", "content": [{"type": "text", "text": "hi"}], "mood": "glad"}
    fields = {"tools": [tool], "chat_template_kwargs": {"shout": True}, "messages": [message]}
    assert (await client.post(PATH, json=body(**fields))).status_code == 200
    prompt = model.tokenizer.decode(engine.requests[0].tokens)
    assert json.dumps(tool) in prompt
    assert "hi(glad)" in prompt
    assert "!" in prompt
    await client.post(PATH, json=body(**fields, tool_choice="none"))
    assert "tools" not in model.tokenizer.decode(engine.requests[1].tokens)


async def test_last_message_is_continued(client, engine, model):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Well"}]
    await client.post(PATH, json=body(messages=messages, continue_final_message=True))
    assert model.tokenizer.decode(engine.requests[0].tokens).endswith("[assistant]Well")


async def test_fields_that_change_nothing_are_ignored(client):
    fields = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "auto",
        "parallel_tool_calls": False,
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "functions": [],
        "logit_bias": None,
        "stop": None,
        "field_of_the_future": {"x": [1]},
    }
    assert (await client.post(PATH, json=body(**fields))).status_code == 200


REFUSED = [
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
    ({"use_beam_search": True}, "use_beam_search"),
    ({"guided_json": {}, "guided_regex": "a+"}, "guided_regex"),
    ({"messages": [{"role": "boss", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0]",
    ),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"temperature": 3}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "logprobs"),
    ({"n": 0}, "n"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"5000": 1}}, "logit_bias"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"chat_template": "{{ x }}"}, "chat_template"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=str)
async def test_wrong_or_unserved_field_is_400_with_its_path(client, engine, fields, param):
    response = await client.post(PATH, json=body(**fields))
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert set(error) == {"message", "type", "param", "code"}
    assert engine.requests == []


async def test_refusal_by_the_engine_is_400_or_an_error_event(client, engine):
    engine.error = "the sequence needs more cache than there is"
    response = await client.post(PATH, json=body())
    assert response.status_code == 400
    assert response.json()["error"]["message"] == engine.error
    response = await client.post(PATH, json=body(stream=True))
    assert response.status_code == 200
    [event] = response.text.strip().split("\n\n")
    assert json.loads(event.removeprefix("data: "))["error"]["message"] == engine.error
