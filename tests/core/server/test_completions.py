from __future__ import annotations

import json

import pytest

from ferrule.server.app import create_app, create_service

PATH = "/v1/completions"
RECITED = "Hello, wörld! 🦊 The quick brown fox."


def body(**fields):
    return {"model": "fake", "prompt": "Hello", "max_tokens": 40, **fields}


def events(text):
    lines = text.removesuffix("\n\n").split("\n\n")
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def test_answer_at_once(client, engine):
    answer = (await client.post(PATH, json=body())).json()
    assert answer["id"].startswith("cmpl-")
    assert answer["object"] == "text_completion"
    [choice] = answer["choices"]
    assert (choice["text"], choice["index"], choice["finish_reason"]) == (RECITED, 0, "stop")
    assert choice["logprobs"] is None
    assert engine.requests[0].tokens == [0, 261]
    assert answer["usage"]["total_tokens"] == 2 + 29


async def test_sixteen_tokens_unless_asked(client):
    answer = (await client.post(PATH, json={"model": "fake", "prompt": "x"})).json()
    assert answer["usage"]["completion_tokens"] == 16
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Hello", [[0, 261]]),
        (["Hello", "a"], [[0, 261], [0, 66]]),
        ([5, 6], [[5, 6]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
    ],
)
async def test_every_form_of_prompt(client, engine, prompt, expected):
    answer = (await client.post(PATH, json=body(prompt=prompt, max_tokens=1))).json()
    assert [request.tokens for request in engine.requests] == expected
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(expected)))
    assert answer["usage"]["prompt_tokens"] == sum(map(len, expected))


async def test_an_id_that_is_no_token_is_refused_before_the_engine_gets_anything(client, engine):
    response = await client.post(PATH, json=body(prompt=[[5, 6], [7, 320]]))
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "prompt[1]")
    assert "token id 320; the model's ids are 0 to 319" in error["message"]
    assert engine.requests == []


async def test_special_tokens_can_be_left_out(client, engine):
    await client.post(PATH, json=body(add_special_tokens=False))
    assert engine.requests[0].tokens == [261]


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ([], "prompt"),
        ([[]], "prompt"),
        ([["a"]], "prompt[0][0]"),
        ([5, "a"], "prompt"),
        ([5, [6]], "prompt"),
        (["a", [999]], "prompt[1]"),
        ([True], "prompt[0]"),
        (7, "prompt"),
        (["a"] * 1025, "prompt"),
        (None, "prompt"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_other_prompts_are_400(client, engine, prompt, param):
    response = await client.post(PATH, json=body(prompt=prompt))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert engine.requests == []


async def test_stream_numbers_prompts_and_choices(client):
    response = await client.post(
        PATH,
        json=body(prompt=["a", "b"], n=2, max_tokens=2, stream=True, echo=True,
                  stream_options={"include_usage": True}),
    )  # fmt: skip
    *chunks, last = events(response.text)
    texts = {}
    ends = {}
    for chunk in chunks:
        [choice] = chunk["choices"]
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
        if choice["finish_reason"]:
            ends[choice["index"]] = choice["finish_reason"]
    assert texts == {0: "aHello,", 1: "aHello,", 2: "bHello,", 3: "bHello,"}
    assert ends == dict.fromkeys(range(4), "length")
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == 4
    assert last["usage"]["completion_tokens"] == 8


async def test_logprobs_are_parallel_lists(client):
    [choice] = (await client.post(PATH, json=body(logprobs=2, max_tokens=6))).json()["choices"]
    logprobs = choice["logprobs"]
    assert choice["text"] == "Hello, wö"
    assert logprobs["tokens"] == ["Hello", ",", " ", "w", "bytes:\\xc3", "bytes:\\xb6"]
    assert logprobs["text_offset"] == [0, 5, 6, 7, 8, 8]
    assert logprobs["token_logprobs"][1] == -0.013
    assert logprobs["top_logprobs"][1] == {",": -0.013, "-": pytest.approx(-1.013)}
    assert {len(values) for values in logprobs.values()} == {6}


async def test_chosen_token_is_always_among_the_alternatives(client):
    [choice] = (await client.post(PATH, json=body(logprobs=0, max_tokens=2))).json()["choices"]
    assert choice["logprobs"]["top_logprobs"] == [{"Hello": -0.261}, {",": -0.013}]


async def test_echo_with_logprobs_describes_the_prompt_too(client):
    fields = {"prompt": "ab", "echo": True, "logprobs": 1, "max_tokens": 2}
    [choice] = (await client.post(PATH, json=body(**fields))).json()["choices"]
    logprobs = choice["logprobs"]
    assert choice["text"] == "abHello,"
    assert logprobs["tokens"] == ["<s>", "a", "b", "Hello", ","]
    assert logprobs["text_offset"] == [0, 0, 1, 2, 7]
    assert logprobs["token_logprobs"][:2] == [None, -0.066]
    assert logprobs["top_logprobs"][0] is None


async def test_streamed_logprobs_are_those_of_the_whole_answer(client):
    fields = {"prompt": [66, 67], "echo": True, "logprobs": 1, "max_tokens": 9}
    [choice] = (await client.post(PATH, json=body(**fields))).json()["choices"]
    chunks = events((await client.post(PATH, json=body(**fields, stream=True))).text)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(one["text"] for one in choices) == choice["text"]
    for name, whole in choice["logprobs"].items():
        assert [v for one in choices if one["logprobs"] for v in one["logprobs"][name]] == whole


async def test_prompt_can_be_scored_without_generating(client):
    fields = {"prompt": [66, 67], "echo": True, "logprobs": 1, "max_tokens": 0}
    [choice] = (await client.post(PATH, json=body(**fields))).json()["choices"]
    assert choice["text"] == "ab"
    assert choice["logprobs"]["tokens"] == ["a", "b"]
    assert choice["finish_reason"] == "length"


async def test_token_ids_on_demand(client):
    fields = {"return_token_ids": True, "max_tokens": 2}
    [choice] = (await client.post(PATH, json=body(**fields))).json()["choices"]
    assert (choice["prompt_token_ids"], choice["token_ids"]) == ([0, 261], [261, 13])
    chunks = events((await client.post(PATH, json=body(**fields, stream=True))).text)
    assert chunks[0]["choices"][0]["prompt_token_ids"] == [0, 261]
    assert [t for c in chunks for t in c["choices"][0].get("token_ids", [])] == [261, 13]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"lora": "finance"}, "lora"),
    ],
)
async def test_unserved_field_is_refused_by_name(client, fields, param):
    response = await client.post(PATH, json=body(**fields))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_best_of_that_changes_nothing_passes(client):
    assert (await client.post(PATH, json=body(best_of=2, n=2, max_tokens=1))).status_code == 200


async def test_checkpoint_without_a_tokenizer_serves_ids(engine):
    import fake_server
    from litestar.testing import AsyncTestClient

    model = fake_server.make_model(tokenizer=None, template=None)
    async with AsyncTestClient(create_app(create_service(model, engine))) as client:
        fields = {"prompt": [5, 6], "max_tokens": 2, "logprobs": 1}
        [choice] = (await client.post(PATH, json=body(**fields))).json()["choices"]
        assert (choice["text"], choice["token_ids"]) == ("", [261, 13])
        assert choice["logprobs"]["tokens"] == ["token_id:261", "token_id:13"]
        refused = await client.post(PATH, json=body(prompt="text"))
        assert refused.status_code == 400
        assert "has no tokenizer" in refused.json()["error"]["message"]
        chat = {"model": "fake", "messages": [{"role": "user", "content": "x"}]}
        refused = await client.post("/v1/chat/completions", json=chat)
        assert refused.status_code == 400
        assert "has no tokenizer" in refused.json()["error"]["message"]


async def test_long_bodies_are_tokenised_aside(client, engine):
    prompt = "x" * 400
    response = await client.post(PATH, json=body(prompt=prompt, user="u" * 40000, max_tokens=1))
    assert response.status_code == 200
    assert len(engine.requests[0].tokens) == 401
