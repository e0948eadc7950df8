from __future__ import annotations

import pytest

from ferrule.bench.client import Client
from ferrule.bench.measurement import BenchRequest, Failure, Measurement
from ferrule.bench.prompts import Prompt
from ferrule.bench.tally import Tally
from ferrule.errors import FerruleError


def request_to(model, *, max_tokens=5):
    return BenchRequest(model=model, prompt=Prompt(text=[1000, 1001, 1002], max_tokens=max_tokens))


@pytest.fixture
def tally():
    return Tally("a point", 1)


@pytest.fixture
async def client(server):
    async with Client(server.url, temperature=0.5, timeout=20) as opened:
        yield opened


async def test_times_are_those_of_the_stream(client, fake_server, tally):
    got = await client.send(request_to("paced"), tally)
    first, step = fake_server.FIRST_SECONDS, fake_server.TOKEN_SECONDS
    assert isinstance(got, Measurement)
    # Never shorter than the server took; longer by what this machine does beside it.
    assert first <= got.ttft < first + 2
    assert step * 0.9 <= got.itl < step + 0.5
    assert first + 5 * step <= got.e2e < first + 5 * step + 4
    assert got.ttft + 4 * got.itl <= got.e2e


async def test_counts_are_the_servers(client, tally):
    got = await client.send(request_to("quick", max_tokens=7), tally)
    assert (got.prompt_tokens, got.output_tokens, got.cached_tokens) == (3, 7, 0)
    assert (await client.send(request_to("cached"), tally)).cached_tokens == 2


async def test_chunks_of_several_tokens_count_for_what_they_hold(client, tally, monkeypatch):
    counted = []
    monkeypatch.setattr(tally, "add_tokens", counted.append)
    got = await client.send(request_to("pairs", max_tokens=8), tally)
    assert got.output_tokens == 8
    assert counted == [1, 1, 1, 1, 4]


async def test_the_request_asks_for_a_stream_of_exactly_so_many_tokens(server, client, tally):
    await client.send(request_to("quick"), tally)
    (body,) = server.bodies
    assert body == {
        "model": "quick",
        "prompt": [1000, 1001, 1002],
        "max_tokens": 5,
        "temperature": 0.5,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_a_text_is_sent_as_it_is(server, client, tally):
    prompt = Prompt(text="Größe?", max_tokens=1)
    await client.send(BenchRequest(model="quick", prompt=prompt), tally)
    assert server.bodies[0]["prompt"] == "Größe?"


@pytest.mark.parametrize(
    ("way", "error"),
    [
        ("error 500", "HTTP 500: it is broken"),
        ("error 502", "HTTP 502: Bad Gateway"),
        ("broken stream", "Response payload is not completed"),
        ("no usage", "no usage block in the stream"),
        ("no tokens", "no tokens in the stream"),
        ("error event", "the engine has ended"),
        ("no JSON", "an event is not what it should be"),
        ("other JSON", "an event is not what it should be"),
    ],
)
async def test_what_goes_wrong_is_an_outcome(client, tally, way, error):
    got = await client.send(request_to(way), tally)
    assert isinstance(got, Failure)
    assert got.error.startswith(error)
    # The next one is not the worse for it.
    assert isinstance(await client.send(request_to("quick"), tally), Measurement)


async def test_an_answer_that_takes_too_long_is_a_failure(server, tally):
    async with Client(server.url, timeout=0.1) as client:
        got = await client.send(request_to("silent"), tally)
    assert got == Failure("no whole answer within 0.1 s")


async def test_a_server_that_is_not_there_is_a_failure(tally):
    async with Client("http://127.0.0.1:1") as client:
        got = await client.send(request_to("quick"), tally)
    assert "127.0.0.1:1" in got.error


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
async def test_a_url_may_have_the_version_at_its_end(server, tally, end):
    async with Client(server.url + end) as client:
        assert await client.first_model() == "quick"
        assert isinstance(await client.send(request_to("quick"), tally), Measurement)


async def test_no_server_is_told_when_models_are_asked_for():
    async with Client("http://127.0.0.1:1") as client:
        with pytest.raises(
            FerruleError, match=r"no server answers at http://127\.0\.0\.1:1/v1/models"
        ):
            await client.first_model()


@pytest.mark.parametrize(
    ("models", "message"), [([], "gives no list of models"), (None, "HTTP 404: no models here")]
)
async def test_a_server_without_a_list_of_models_is_told(server, client, models, message):
    server.models = models
    with pytest.raises(FerruleError, match=message) as caught:
        await client.first_model()
    assert "--model NAME" in caught.value.hint
