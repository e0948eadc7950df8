"""What the engine process and its client say to each other, as msgpack over one socket.

Requests, outputs and their parts are also the engine's own types, so that a script that holds an
engine in its own process speaks the same words.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ferrule import errors
from ferrule.errors import FerruleError
from ferrule.plan import LoraInfo, SamplingParams, TokenLogprobs

FinishReason = Literal["stop", "length", "abort", "error"]


class Request(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """One sequence to generate; a request for ``n`` answers is ``n`` of these.

    Attributes:
        id: Unique among the requests that are not finished.
        tokens: The prompt.
        sampling: How to choose its tokens.
        stop_ids: Every token that ends it: the model's eos tokens unless they are to be ignored,
            and the stop tokens asked for.
        cache_salt: Prompts share cached blocks only with prompts of the same salt.
        lora: Identity of the adapter's content, empty for none; also parts the prefix cache.
    """

    id: str
    tokens: list[int]
    sampling: SamplingParams = SamplingParams()
    stop_ids: tuple[int, ...] = ()
    cache_salt: str = ""
    lora: str = ""


class Abort(msgspec.Struct, frozen=True, tag=True):
    """Ends these requests; ids that are unknown or finished mean nothing."""

    ids: list[str]


class LoadLora(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Reads an adapter; ``LoraLoaded`` or ``LoraRefused`` answers.

    Attributes:
        ticket: Names the answer.
        location: A directory, a file or ``org/name[@revision]``.
    """

    ticket: str
    location: str


class UnloadLora(msgspec.Struct, frozen=True, tag=True):
    """Lets go of an adapter once the requests that want it have ended."""

    content: str


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """Ends the engine process."""


class Output(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one step added to one sequence.

    Attributes:
        id: The request.
        tokens: The new tokens; a stop token is among them.
        finish_reason: Why the sequence ended; None: it goes on.
        stop_reason: The stop token that ended it.
        logprobs: One for each new token, where the request asked for them.
        prompt_logprobs: One for each token of the prompt, None for its first; given once, with
            the output that follows the prompt.
        num_cached_tokens: How many tokens of the prompt were found in the prefix cache.
        error: What was wrong with the request, when ``finish_reason`` is "error".
    """

    id: str
    tokens: list[int] = []
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    num_cached_tokens: int = 0
    error: str | None = None


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine does now and has done since it started.

    Attributes:
        running: Sequences that hold a slot.
        waiting: Sequences that wait for one.
        kv_used: Share of the KV blocks in use, 0 to 1; blocks kept only for reuse are free.
        preemptions_total: How often a sequence lost its blocks to an older one.
        prefix_queries_total: Prompt tokens looked up in the prefix cache.
        prefix_hits_total: How many of these were found.
        prompt_tokens_total: Prompt tokens of the sequences that were admitted.
        generation_tokens_total: Tokens generated.
        steps_total: Steps run.
        step_seconds: Time spent in them, in seconds.
        loras_known: Adapters that requests may name.
        loras_placed: Those on the device.
        lora_slots: How many could be there.
        lora_host_bytes: Bytes of adapters in host memory.
        lora_device_bytes: Bytes that the device keeps for adapters.
        lora_placements_total: How often one was brought to the device.
        host_seconds: The part of it in which the engine decided, launched and took in results,
            and did not wait for a device. With a runner that does not run ahead, the launch is
            the computation.
    """

    running: int = 0
    waiting: int = 0
    kv_used: float = 0.0
    preemptions_total: int = 0
    prefix_queries_total: int = 0
    prefix_hits_total: int = 0
    prompt_tokens_total: int = 0
    generation_tokens_total: int = 0
    steps_total: int = 0
    step_seconds: float = 0.0
    host_seconds: float = 0.0
    loras_known: int = 0
    loras_placed: int = 0
    lora_slots: int = 0
    lora_host_bytes: int = 0
    lora_device_bytes: int = 0
    lora_placements_total: int = 0


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is served, and within which limits.

    Attributes:
        architecture: Name of the architecture that computes the model.
        weight_adapter: Name of the weight adapter that read the checkpoint.
        dtype: Of activations, such as "bfloat16".
        device: Where it runs, such as "cuda:0".
        max_length: Most tokens of a sequence, prompt and output together.
        vocab_size: Token ids are below this.
        num_blocks: KV blocks.
        block_size: Tokens a block holds.
        max_batch_size: Sequences that run together.
        weight_bytes: Memory of the weights.
        kv_bytes: Memory of the KV cache.
        notes: What the user should know about how the checkpoint was read.
        loras: The adapters that were read at the start, by the name that each was given.
        max_lora_rank: Most rank of an adapter; 0: adapters are not served.
        lora_bytes: Memory that the device keeps for adapters.
    """

    architecture: str
    weight_adapter: str
    dtype: str
    device: str
    max_length: int
    vocab_size: int
    num_blocks: int
    block_size: int
    max_batch_size: int
    weight_bytes: int
    kv_bytes: int
    notes: list[str] = []
    loras: dict[str, LoraInfo] = {}
    max_lora_rank: int = 0
    lora_bytes: int = 0


class Progress(msgspec.Struct, frozen=True, tag=True):
    """How far the start is.

    Attributes:
        stage: What goes on, such as "loading weights".
        fraction: How much of the stage is done, 0 to 1; None where nobody can tell.
        detail: Sizes or names for the user.
    """

    stage: str
    fraction: float | None = None
    detail: str = ""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The engine takes requests from now on."""

    info: EngineInfo


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The engine could not start, or a step failed and the engine ends.

    Attributes:
        error_type: Name of a class of ``ferrule.errors``.
        message: What was found and what was expected.
        hint: The next step.
    """

    error_type: str
    message: str
    hint: str = ""


class Outputs(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """All that a step gave, and now and then the engine's figures."""

    outputs: list[Output] = []
    stats: Stats | None = None


class LoraLoaded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The adapter of a ``LoadLora`` can be asked for by its content."""

    ticket: str
    info: LoraInfo


class LoraRefused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The adapter of a ``LoadLora`` cannot be served; the fields are those of ``Failed``."""

    ticket: str
    error_type: str
    message: str
    hint: str = ""


ToEngine = Request | Abort | LoadLora | UnloadLora | Shutdown
FromEngine = Progress | Ready | Failed | Outputs | LoraLoaded | LoraRefused

_to_engine: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
_from_engine: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)


def told(failed: Failed | LoraRefused) -> FerruleError:
    """What was raised in the engine process, as its class."""
    error_type: type[FerruleError] = getattr(errors, failed.error_type)
    return error_type(failed.message, hint=failed.hint)


def encode(message: ToEngine | FromEngine) -> bytes:
    """One message as msgpack."""
    return msgspec.msgpack.encode(message)


def decode_to_engine(data: bytes) -> ToEngine:
    """What the client says.

    Raises:
        msgspec.DecodeError: The bytes are no such message.
    """
    return _to_engine.decode(data)


def decode_from_engine(data: bytes) -> FromEngine:
    """What the engine process says.

    Raises:
        msgspec.DecodeError: The bytes are no such message.
    """
    return _from_engine.decode(data)
