from __future__ import annotations

import msgspec
import pytest

from ferrule.engine.messages import (
    Abort,
    EngineInfo,
    Failed,
    Output,
    Outputs,
    Progress,
    Ready,
    Request,
    Shutdown,
    Stats,
    decode_from_engine,
    decode_to_engine,
    encode,
)
from ferrule.plan import SamplingParams, TokenLogprobs

INFO = EngineInfo(
    architecture="llama",
    weight_adapter="huggingface",
    dtype="bfloat16",
    device="cpu",
    max_length=2048,
    vocab_size=49152,
    num_blocks=128,
    block_size=16,
    max_batch_size=8,
    weight_bytes=1,
    kv_bytes=2,
    notes=["tied"],
)
LOGPROBS = TokenLogprobs(-0.5, 1, (3, 4), (-0.5, float("-inf")))


@pytest.mark.parametrize(
    "message",
    [
        Request(id="a", tokens=[1]),
        Request(
            id="a",
            tokens=[1, 2],
            sampling=SamplingParams(logit_bias={5: -100.0}, stop=("x",), seed=2**63 - 1),
            stop_ids=(2, 3),
            cache_salt="s",
            lora="l",
        ),
        Abort(ids=["a", "b"]),
        Shutdown(),
    ],
)
def test_what_the_client_says_arrives_unchanged(message):
    assert decode_to_engine(encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        Progress("loading weights", 0.5, "1 of 2 GB"),
        Ready(INFO),
        Failed("MatchError", "no pair", "see: ferrule plugins"),
        Outputs(
            [
                Output(id="a", tokens=[1], logprobs=[LOGPROBS], prompt_logprobs=[None, LOGPROBS]),
                Output(id="b", finish_reason="stop", stop_reason=7, num_cached_tokens=16),
                Output(id="c", finish_reason="error", error="no tokens"),
            ],
            Stats(running=1, kv_used=0.5, step_seconds=1.5),
        ),
    ],
)
def test_what_the_engine_says_arrives_unchanged(message):
    assert decode_from_engine(encode(message)) == message


def test_a_message_of_the_other_direction_is_refused():
    with pytest.raises(msgspec.ValidationError):
        decode_to_engine(encode(Outputs()))
    with pytest.raises(msgspec.ValidationError):
        decode_from_engine(encode(Shutdown()))


def test_a_steady_output_is_small():
    output = Output(id="chatcmpl-" + "0" * 32, tokens=[1000])

    assert len(encode(Outputs([output] * 100))) < 100 * 70
