"""An engine that recites, a model of 300 tokens, and a server of both to run as a process.

Imported by the conftests under the name ``fake_server``; run as a script it serves until a signal.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time

import tokenizers
import uvloop
from tokenizers import decoders, models, pre_tokenizers

from ferrule.engine.messages import EngineInfo, Output, Progress, Stats
from ferrule.engine.status import EngineStatus
from ferrule.errors import EngineDeadError, FerruleError, OutOfMemoryError
from ferrule.frontend.model import ServedModel
from ferrule.plan import LoraInfo, SamplingParams, TokenLogprobs
from ferrule.server.app import create_service
from ferrule.server.listen import listen
from ferrule.server.serve import HttpServer
from ferrule.tokenizer.chat_template import ChatTemplate
from ferrule.tokenizer.tokenizer import Tokenizer

BOS, EOS = 0, 1
TEMPLATE = (
    "{{ bos_token }}{% if tools %}tools:{{ tools | tojson }};{% endif %}"
    "{% for message in messages %}"
    "{% if message.role == 'forbidden' %}{{ raise_exception('no such role') }}{% endif %}"
    "[{{ message.role }}]{{ message.content }}"
    "{% if message.mood %}({{ message.mood }}){% endif %}"
    "{% endfor %}"
    "{% if shout is defined and shout %}!{% endif %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
RECITED = "Hello, wörld! 🦊 The quick brown fox."

INFO = EngineInfo(
    architecture="fake",
    weight_adapter="fake",
    dtype="float32",
    device="cpu",
    max_length=512,
    vocab_size=320,
    num_blocks=256,
    block_size=16,
    max_batch_size=8,
    weight_bytes=1,
    kv_bytes=1,
)


def make_tokenizer() -> Tokenizer:
    """Byte-level: two special tokens, a token for each byte, and a few for common words."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "</s>", *alphabet]
    merges = []
    for word in ("Hello", "Ġquick", "Ġfox"):
        for end in range(2, len(word) + 1):
            merges.append((word[: end - 1], word[end - 1]))
            tokens.append(word[:end])
    backend = tokenizers.Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(dict.fromkeys(tokens))}, merges=merges)
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>"])
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return Tokenizer(backend, special_tokens=special, prefix=[BOS])


def make_model(**changes: object) -> ServedModel:
    tokenizer = make_tokenizer()
    fields = {
        "names": ("fake", "org/fake"),
        "created": 1700000000,
        "tokenizer": tokenizer,
        "template": ChatTemplate(TEMPLATE, tokenizer.special_tokens),
        "sampling": SamplingParams(),
        "eos_ids": (EOS,),
    }
    return ServedModel(**{**fields, **changes})


class FakeEngine:
    """Recites a fixed text token by token, then an eos token if that is to stop it, and again.

    Attributes:
        requests: All that it was given.
        running: Ids in progress.
        aborted: Ids that were left before their end.
    """

    def __init__(self, recited: str = RECITED, delay: float = 0.0) -> None:
        self.status = EngineStatus(state="ready")
        self.stats = Stats(
            running=2,
            waiting=1,
            kv_used=0.5,
            steps_total=7,
            step_seconds=1.5,
            host_seconds=0.25,
        )
        self.info = INFO
        self.requests = []
        self.running = set()
        self._tasks = {}
        self.aborted = []
        self.is_stopped = False
        self.cached = 0
        self.error = None
        self.tokens_per_output = 1
        self.lora_errors = {}
        self.unloaded = []
        self.delay = delay
        self._script = make_tokenizer().encode(recited, add_special_tokens=False)

    def submit(self, request, inbox):
        self.requests.append(request)
        self.running.add(request.id)
        self._tasks[request.id] = asyncio.create_task(self._recite(request, inbox))

    def abort(self, ids):
        for id in ids:
            if id in self.running:
                self._tasks[id].cancel()
                self.running.remove(id)
                self.aborted.append(id)

    async def load_lora(self, location):
        if location in self.lora_errors:
            raise self.lora_errors[location]
        content = location.rpartition("/")[2]
        return LoraInfo(
            content=content,
            location=location,
            kinds=["q_proj", "v_proj"],
            summary="rank 8, scale 2",
            report={"num_modules": 1},
        )

    async def unload_lora(self, content):
        self.unloaded.append(content)

    async def stop(self):
        self.is_stopped = True

    def die(self, cause: str) -> None:
        self.status = EngineStatus(state="dead", cause=cause)

    async def _recite(self, request, inbox):
        try:
            async for output in self._outputs(request):
                if output.finish_reason is not None:
                    self.running.remove(request.id)
                inbox.put_nowait(output)
        except EngineDeadError as error:
            self.running.remove(request.id)
            inbox.put_nowait(error)

    async def _outputs(self, request):
        sampling = request.sampling
        if self.error:
            yield Output(id=request.id, finish_reason="error", error=self.error)
            return
        chosen = self._chosen(request)
        prompt_logprobs = None
        if sampling.prompt_logprobs is not None:
            prompt_logprobs = [None, *(logprobs(token) for token in request.tokens[1:])]
        for start in range(0, max(1, len(chosen)), self.tokens_per_output):
            await asyncio.sleep(self.delay)
            if self.status.state == "dead":
                raise EngineDeadError(f"the engine process is gone: {self.status.cause}")
            tokens = chosen[start : start + self.tokens_per_output]
            is_last = start + self.tokens_per_output >= len(chosen)
            stops = is_last and bool(tokens) and tokens[-1] in request.stop_ids
            yield Output(
                id=request.id,
                tokens=tokens,
                finish_reason=("stop" if stops else "length") if is_last else None,
                stop_reason=tokens[-1] if stops else None,
                logprobs=None if sampling.logprobs is None else [logprobs(t) for t in tokens],
                prompt_logprobs=prompt_logprobs if start == 0 else None,
                num_cached_tokens=self.cached,
            )

    def _chosen(self, request):
        chosen = []
        for token in [*self._script, EOS] * 1000:
            if len(chosen) == request.sampling.max_tokens:
                break
            if token == EOS and EOS not in request.stop_ids:
                continue
            chosen.append(token)
            if token in request.stop_ids and len(chosen) > request.sampling.min_tokens:
                break
        return chosen


def logprobs(token: int) -> TokenLogprobs:
    """The token itself is the likeliest, its neighbours follow."""
    top = [(token + i) % 256 + (0 if i else token // 256 * 256) for i in range(20)]
    return TokenLogprobs(
        logprob=-token / 1000,
        rank=1,
        top_ids=tuple(top),
        top_logprobs=tuple(-token / 1000 - i for i in range(20)),
    )


def tell(*words: object) -> None:
    """One line for the test that started this process."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.02)
    parser.add_argument("--start-seconds", type=float, default=0.0)
    parser.add_argument("--shutdown-seconds", type=float, default=30.0)
    parser.add_argument("--dies-after", type=float, default=None)
    parser.add_argument("--fails", action="store_true")
    options = parser.parse_args()
    engine = FakeEngine(delay=options.delay)
    engine.status = EngineStatus(state="starting", progress=Progress("loading weights", 0.25))
    sock = listen("127.0.0.1", 0)
    tell("port", sock.getsockname()[1])

    async def start() -> EngineInfo:
        await asyncio.sleep(options.start_seconds)
        if options.fails:
            raise OutOfMemoryError("the weights need 16 GB", hint="Use a smaller model.")
        engine.status = EngineStatus(state="ready")
        if options.dies_after is not None:
            asyncio.get_running_loop().call_later(options.dies_after, engine.die, "signal 9")
        return engine.info

    async def serve() -> int:
        service = create_service(make_model(), engine)
        server = HttpServer(service, sock, shutdown_seconds=options.shutdown_seconds)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, server.stop, number)
        return await server.run(start, lambda info: tell("ready", info.architecture))

    started = time.monotonic()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            status = runner.run(serve())
    except FerruleError as error:
        tell(type(error).__name__, error)
        status = 1
    tell("stopped", engine.is_stopped, "aborted", len(engine.aborted))
    tell("seconds", round(time.monotonic() - started, 1))
    tell("torch", "torch" in sys.modules)
    return status


if __name__ == "__main__":
    sys.exit(main())
