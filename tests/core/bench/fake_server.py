"""An OpenAI-compatible server whose models are ways to answer, in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import threading

from aiohttp import web

FIRST_SECONDS = 0.1
TOKEN_SECONDS = 0.02


class FakeServer:
    """Listens while it is entered as a context.

    ``bodies`` has what was asked for and ``most_at_once`` how many requests ran together.
    """

    def __init__(self):
        self.bodies = []
        self.most_at_once = 0
        self.models = ["quick", "paced"]
        self._num_running = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self):
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self):
        app = web.Application()
        app.router.add_get("/v1/models", self._list_models)
        app.router.add_post("/v1/completions", self._complete)
        self._runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _list_models(self, _):
        if self.models is None:
            return web.json_response({"error": {"message": "no models here"}}, status=404)
        return web.json_response({"data": [{"id": name} for name in self.models]})

    async def _complete(self, request):
        body = await request.json()
        self.bodies.append(body)
        self._num_running += 1
        self.most_at_once = max(self.most_at_once, self._num_running)
        try:
            return await self._answer(request, body)
        finally:
            self._num_running -= 1

    async def _answer(self, request, body):
        way = body["model"]
        if way == "error 500":
            return web.json_response({"error": {"message": "it is broken"}}, status=500)
        if way == "error 502":
            return web.Response(status=502, text="Bad Gateway\n")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async for event in self._events(request, way, body):
            await response.write(event)
        return response

    async def _events(self, request, way, body):
        num = body["max_tokens"]
        match way:
            case "paced":
                await asyncio.sleep(FIRST_SECONDS)
                for _ in range(num):
                    yield token()
                    await asyncio.sleep(TOKEN_SECONDS)
                yield usage(body, num)
            case "silent":
                await asyncio.sleep(30)
            case "broken stream":
                yield token()
                request.transport.abort()
            case "no usage":
                yield token()
            case "no tokens":
                yield usage(body, 0)
            case "error event":
                yield token()
                yield event({"error": {"message": "the engine has ended"}})
            case "no JSON":
                yield b"data: {\n\n"
            case "other JSON":
                yield event({"choices": 7})
            case "pairs":
                for _ in range(num // 2):
                    yield token()
                yield usage(body, num)
            case "cached":
                yield token()
                yield usage(body, num, cached=len(body["prompt"]) - 1)
            case _:
                for _ in range(num):
                    yield token()
                yield usage(body, num)
                yield b": a comment\n\ndata: [DONE]\n\n"


def event(body):
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def token():
    return event({"choices": [{"index": 0, "text": " a"}]})


def usage(body, num, cached=None):
    counts = {"prompt_tokens": len(body["prompt"]), "completion_tokens": num}
    if cached is not None:
        counts["prompt_tokens_details"] = {"cached_tokens": cached}
    return event({"choices": [], "usage": counts})
