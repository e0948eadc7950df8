"""Streams completions from an OpenAI-compatible server and takes their time."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import aiohttp
import msgspec

from ferrule.bench.events import DONE, EventLines
from ferrule.bench.measurement import BenchRequest, Failure, Measurement, Outcome, measured
from ferrule.bench.tally import Tally
from ferrule.errors import FerruleError

_MAX_ERROR = 300
_MODELS_SECONDS = 30
_NAME_ONE = "Name the model with --model NAME."


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _PromptDetails | None = None


class _Chunk(msgspec.Struct):
    """What matters of an event; texts are not even parsed."""

    choices: list[msgspec.Raw] = []
    usage: _Usage | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Chunk)


class Client:
    """Connections to one server; used as an async context.

    Args:
        url: Of the server, with or without ``/v1``.
        temperature: Of every request.
        timeout: Seconds that a request may take.
    """

    def __init__(self, url: str, *, temperature: float = 0.0, timeout: float = 600.0) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._temperature = temperature
        self._timeout = timeout
        self._opened: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        # The number of connections is the load's to decide.
        self._opened = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._timeout),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def first_model(self) -> str:
        """The name of the first model that the server lists.

        Raises:
            FerruleError: Nobody answers at the URL, or not with a list of models.
        """
        url = f"{self._url}/v1/models"
        timeout = aiohttp.ClientTimeout(total=_MODELS_SECONDS)
        try:
            async with self._session.get(url, timeout=timeout) as response:
                body = await response.read()
                if response.status != 200:
                    answer = _status(response.status, body)
                    raise FerruleError(f"{url} answers {answer}", hint=_NAME_ONE)
            return msgspec.json.decode(body)["data"][0]["id"]
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FerruleError(
                f"no server answers at {url}: {_words(error)}",
                hint="Start one with ferrule serve MODEL, or name a checkpoint in place of --url.",
            ) from error
        except (msgspec.DecodeError, LookupError, TypeError) as error:
            raise FerruleError(f"{url} gives no list of models", hint=_NAME_ONE) from error

    async def send(self, request: BenchRequest, tally: Tally) -> Outcome:
        """Sends a request and reads its answer to the end; whatever goes wrong is an outcome.

        Args:
            request: What to ask for.
            tally: Counts tokens as they come.
        """
        try:
            return await self._ask(request, tally)
        except TimeoutError:
            return Failure(f"no whole answer within {self._timeout:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Failure(_words(error)[:_MAX_ERROR])
        except msgspec.DecodeError as error:
            return Failure(f"an event is not what it should be: {error}")

    @property
    def _session(self) -> aiohttp.ClientSession:
        assert self._opened is not None, "not entered"
        return self._opened

    async def _ask(self, request: BenchRequest, tally: Tally) -> Outcome:
        answer = _Answer(tally)
        body = msgspec.json.encode(self._body(request))
        headers = {"Content-Type": "application/json"}
        url = f"{self._url}/v1/completions"
        answer.start = time.perf_counter()
        async with self._session.post(url, data=body, headers=headers) as response:
            if response.status != 200:
                return Failure(_status(response.status, await response.read()))
            # Read to its very end: a connection that is left early cannot be used again.
            async for data in response.content.iter_any():
                answer.feed(data)
        return answer.outcome()

    def _body(self, request: BenchRequest) -> dict[str, Any]:
        return {
            "model": request.model,
            "prompt": request.prompt.text,
            "max_tokens": request.prompt.max_tokens,
            "temperature": self._temperature,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


class _Answer:
    """One answer as it comes.

    Args:
        tally: Counts its tokens.
    """

    def __init__(self, tally: Tally) -> None:
        self.start = 0.0
        self._tally = tally
        self._lines = EventLines()
        self._first: float | None = None
        self._last = self._end = 0.0
        self._num_chunks = 0
        self._usage: _Usage | None = None
        self._error = ""

    def feed(self, data: bytes) -> None:
        """Takes the next bytes; all events in them came now."""
        now = time.perf_counter()
        for line in self._lines.feed(data):
            self._end = now
            if line != DONE:
                self._take(_decoder.decode(line), line, now)

    def outcome(self) -> Outcome:
        """What it came to."""
        usage, first = self._usage, self._first
        if self._error:
            return Failure(self._error)
        if usage is None:
            return Failure("no usage block in the stream")
        if first is None:
            return Failure("no tokens in the stream")
        # Until now each chunk passed for a token.
        self._tally.add_tokens(usage.completion_tokens - self._num_chunks)
        return self._measurement(usage, first)

    def _take(self, chunk: _Chunk, line: bytes, now: float) -> None:
        if chunk.error is not None:
            self._error = _message(line)
        if chunk.usage is not None:
            self._usage = chunk.usage
        if chunk.choices:
            self._first = self._first or now
            self._last = now
            self._num_chunks += 1
            self._tally.add_tokens(1)

    def _measurement(self, usage: _Usage, first: float) -> Measurement:
        details = usage.prompt_tokens_details
        return measured(
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=(details.cached_tokens or 0) if details else 0,
            output_tokens=usage.completion_tokens,
            start=self.start,
            first=first,
            last=self._last,
            end=self._end,
        )


def _status(status: int, body: bytes) -> str:
    return f"HTTP {status}: {_message(body)}"


def _message(body: bytes) -> str:
    """What OpenAI's envelope of an error says, or the body's begin where it is none."""
    try:
        return str(msgspec.json.decode(body)["error"]["message"])[:_MAX_ERROR]
    except (msgspec.DecodeError, LookupError, TypeError):
        return body.decode(errors="replace").strip()[:_MAX_ERROR]


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
