"""The official client against a real socket."""

from __future__ import annotations

import asyncio

import openai
import pytest

RECITED = "Hello, wörld! 🦊 The quick brown fox."
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def api(live_server):
    async with openai.AsyncOpenAI(
        base_url=f"{live_server}/v1", api_key="none", max_retries=0, timeout=20
    ) as client:
        yield client


async def stream_to_end(stream):
    async for _ in stream:
        pass


async def test_chat(api):
    answer = await api.chat.completions.create(model="fake", messages=MESSAGES, seed=0)
    assert answer.choices[0].message.content == RECITED
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 29
    assert answer.usage.prompt_tokens_details.cached_tokens == 0


async def test_chat_stream(api):
    stream = await api.chat.completions.create(
        model="fake", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    text, reasons, usage = "", [], None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasons.append(choice.finish_reason)
    assert text == RECITED
    assert reasons[-1] == "stop"
    assert usage.completion_tokens == 29


async def test_streaming_helper_assembles_the_same_answer(api):
    async with api.chat.completions.stream(
        model="fake", messages=MESSAGES, logprobs=True, n=2
    ) as stream:
        final = await stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == [RECITED] * 2
    assert len(final.choices[1].logprobs.content) == 29


async def test_chat_logprobs(api):
    answer = await api.chat.completions.create(
        model="fake", messages=MESSAGES, logprobs=True, top_logprobs=3, max_tokens=2
    )
    first = answer.choices[0].logprobs.content[0]
    assert (first.token, first.logprob, bytes(first.bytes)) == ("Hello", -0.261, b"Hello")
    assert len(first.top_logprobs) == 3


async def test_completions(api):
    answer = await api.completions.create(
        model="fake", prompt=["a", "b"], max_tokens=3, echo=True, logprobs=1, n=2
    )
    assert [choice.text for choice in answer.choices] == ["aHello, "] * 2 + ["bHello, "] * 2
    assert answer.choices[3].logprobs.text_offset == [0, 0, 1, 6, 7]


async def test_completions_stream(api):
    texts = {}
    stream = await api.completions.create(model="fake", prompt=[5], max_tokens=9, n=2, stream=True)
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    assert texts == {0: "Hello, wörld"[:11] + "d", 1: "Hello, wörld"}


async def test_fields_beyond_the_official_ones(api, engine):
    answer = await api.completions.create(
        model="fake", prompt=[5], extra_body={"top_k": 5, "return_token_ids": True}, max_tokens=2
    )
    assert answer.choices[0].model_extra["token_ids"] == [261, 13]
    assert engine.requests[0].sampling.top_k == 5


async def test_models(api):
    listed = await api.models.list()
    assert [model.id for model in listed.data] == ["fake", "org/fake"]
    assert (await api.models.retrieve("org/fake")).id == "org/fake"


async def test_errors_are_the_clients_own_classes(api, engine):
    with pytest.raises(openai.NotFoundError) as missing:
        await api.chat.completions.create(model="gpt-4", messages=MESSAGES)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        await api.chat.completions.create(model="fake", messages=MESSAGES, temperature=9)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        await api.completions.create(model="fake", prompt=[5] * 600)
    assert long.value.code == "context_length_exceeded"
    engine.die("gone")
    with pytest.raises(openai.InternalServerError) as dead:
        await api.chat.completions.create(model="fake", messages=MESSAGES)
    assert (dead.value.status_code, dead.value.code) == (503, "engine_dead")


async def test_error_in_a_stream_that_has_begun_is_raised(api, engine):
    engine.delay = 0.02
    stream = await api.chat.completions.create(model="fake", messages=MESSAGES, stream=True)
    assert (await anext(stream)).choices[0].delta.role == "assistant"
    engine.die("gone")
    with pytest.raises(openai.APIError, match="gone"):
        await stream_to_end(stream)


async def test_leaving_the_stream_frees_the_request(api, engine):
    engine.delay = 0.02
    stream = await api.chat.completions.create(model="fake", messages=MESSAGES, stream=True)
    async for _ in stream:
        break
    await stream.close()
    async with asyncio.timeout(5):
        while engine.running:
            await asyncio.sleep(0.005)
    assert len(engine.aborted) == 1


async def test_many_at_once(api, engine):
    engine.delay = 0.002
    answers = await asyncio.gather(
        *(api.chat.completions.create(model="fake", messages=MESSAGES) for _ in range(40))
    )
    assert {answer.choices[0].message.content for answer in answers} == {RECITED}
    assert len({answer.id for answer in answers}) == 40


async def test_synchronous_client(live_server):
    def ask():
        with openai.OpenAI(base_url=f"{live_server}/v1", api_key="none", timeout=20) as client:
            whole = client.chat.completions.create(model="fake", messages=MESSAGES)
            stream = client.completions.create(model="fake", prompt="x", stream=True, max_tokens=40)
            return whole.choices[0].message.content, "".join(c.choices[0].text for c in stream)

    assert await asyncio.to_thread(ask) == (RECITED, RECITED)
