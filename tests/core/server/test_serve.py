from __future__ import annotations

import asyncio
import signal
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

SCRIPT = Path(__file__).with_name("fake_server.py")
STREAM = {"model": "fake", "prompt": "x", "max_tokens": 29, "stream": True}


class Served:
    """A server process: its URL, and its end."""

    def __init__(self, process, port):
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    def send(self, number):
        self.process.send_signal(number)

    async def end(self, seconds=10):
        """Exit status, what it printed, what it logged."""
        async with asyncio.timeout(seconds):
            out, err = await self.process.communicate()
        return self.process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def served(*options, until_ready=True):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        SCRIPT,
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(30):
            port = (await process.stdout.readline()).split()[1].decode()
            if until_ready:
                assert await process.stdout.readline() == b"ready fake\n"
        yield Served(process, port)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def read_stream(url, texts, **fields):
    """Appends what a stream sends; whether it ended in good order."""
    async with (
        httpx.AsyncClient(base_url=url, timeout=20) as client,
        client.stream("POST", "/v1/completions", json=STREAM | fields) as response,
    ):
        async for line in response.aiter_lines():
            texts.append(line)
    return True


async def post(url):
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:
        return await client.post("/v1/completions", json=STREAM | {"stream": False})


async def first_text(texts):
    async with asyncio.timeout(10):
        while not any('"text"' in text for text in texts):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signal_lets_streams_finish_and_exits_with_0(number):
    async with served("--delay", "0.03") as server:
        texts = []
        stream = asyncio.create_task(read_stream(server.url, texts))
        await first_text(texts)
        server.send(number)
        await asyncio.sleep(0.3)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health")
        assert await stream
        assert "data: [DONE]" in texts
        status, out, err = await server.end()
    assert status == 0
    assert "stopped True aborted 0" in out
    assert "torch False" in out
    assert err == ""


async def test_idle_server_ends_at_once_also_with_open_connections():
    async with (
        served("--shutdown-seconds", "60") as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        assert (await client.get("/health")).status_code == 200
        begun = time.monotonic()
        server.send(signal.SIGTERM)
        status, _, _ = await server.end()
        assert time.monotonic() - begun < 10
    assert status == 0


async def test_streams_that_outlast_the_limit_are_ended_and_told_so():
    async with served("--delay", "0.3", "--shutdown-seconds", "0.5") as server:
        texts = []
        stream = asyncio.create_task(read_stream(server.url, texts))
        await first_text(texts)
        server.send(signal.SIGTERM)
        assert await stream
        status, out, err = await server.end()
    assert status == 0
    assert "server_stopping" in texts[-2]
    assert "data: [DONE]" not in texts
    assert "aborted 1" in out
    assert err == ""


async def test_sequence_stuck_before_its_first_token_is_ended_too():
    async with served("--delay", "60", "--shutdown-seconds", "0") as server:
        texts = []
        stream = asyncio.create_task(read_stream(server.url, texts))
        whole = asyncio.create_task(post(server.url))
        await asyncio.sleep(0.3)
        server.send(signal.SIGTERM)
        status, out, err = await server.end()
        await stream
        response = await whole
    assert (status, err) == (0, "")
    assert "server_stopping" in texts[-2]
    assert (response.status_code, response.json()["error"]["code"]) == (503, "server_stopping")
    assert "stopped True aborted 2" in out


async def test_client_that_does_not_read_is_cut_after_the_limit():
    async with served("--delay", "0", "--shutdown-seconds", "0") as server:
        # Some 30 MB, more than all buffers between the two processes hold.
        fields = {"logprobs": 20, "ignore_eos": True, "n": 32, "max_tokens": 500}
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=20) as client,
            client.stream("POST", "/v1/completions", json=STREAM | fields),
        ):
            await asyncio.sleep(2)
            server.send(signal.SIGTERM)
            status, out, err = await server.end(20)
    assert (status, err) == (0, "")
    assert "stopped True" in out


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
async def test_second_signal_ends_everything_at_once(second):
    async with served("--delay", "1", "--shutdown-seconds", "60") as server:
        texts = []
        stream = asyncio.create_task(read_stream(server.url, texts))
        await first_text(texts)
        server.send(signal.SIGINT)
        await asyncio.sleep(0.3)
        begun = time.monotonic()
        server.send(second)
        status, out, err = await server.end()
        assert time.monotonic() - begun < 10
        with pytest.raises(httpx.RemoteProtocolError):
            await stream
    assert status == 128 + second
    assert "stopped True" in out
    assert err == ""


async def test_signal_while_starting_ends_in_good_order():
    async with served("--start-seconds", "60", until_ready=False) as server:
        await asyncio.sleep(0.3)
        response = httpx.get(f"{server.url}/health")
        assert (response.status_code, response.json()["stage"]) == (503, "loading weights")
        server.send(signal.SIGINT)
        status, out, err = await server.end()
    assert (status, err) == (0, "")
    assert "stopped True" in out


async def test_engine_that_cannot_start_ends_the_server_with_its_error():
    async with served("--fails", "--start-seconds", "0.2", until_ready=False) as server:
        status, out, err = await server.end()
    assert status == 1
    assert "OutOfMemoryError the weights need 16 GB\nUse a smaller model." in out
    assert "stopped True" in out
    assert err == ""


async def test_death_of_the_engine_ends_the_server_with_the_cause():
    async with served("--delay", "0.1", "--dies-after", "0.5") as server:
        texts = []
        assert await read_stream(server.url, texts)
        status, out, err = await server.end()
    assert status == 1
    assert "engine_dead" in texts[-2]
    assert "EngineDeadError the engine has ended: signal 9" in out
    assert err == ""
