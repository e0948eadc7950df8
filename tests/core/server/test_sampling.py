from __future__ import annotations

import msgspec
import pytest

from ferrule.errors import RequestError
from ferrule.plan import SamplingParams
from ferrule.server.sampling import sampling_params
from ferrule.server.schema import GenerationRequest, StreamOptions

DEFAULTS = SamplingParams(temperature=0.6, top_p=0.9, top_k=20, repetition_penalty=1.1)


def asked(**fields):
    return GenerationRequest(model="m", **fields)


def test_silence_leaves_the_models_defaults():
    assert sampling_params(asked(), DEFAULTS) == DEFAULTS


def test_every_default_can_be_overruled_also_by_what_switches_it_off():
    fields = {"temperature": 0, "top_p": 1, "top_k": 0, "repetition_penalty": 1}
    assert sampling_params(asked(**fields), DEFAULTS) == SamplingParams(temperature=0)


def test_minus_one_switches_top_k_off_and_less_is_left_to_be_refused():
    assert sampling_params(asked(top_k=-1), DEFAULTS).top_k == 0
    assert sampling_params(asked(top_k=-2), DEFAULTS).top_k == -2


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 0}, 0),
    ],
)
def test_newer_name_of_the_length_wins(fields, length):
    assert sampling_params(asked(**fields), DEFAULTS).max_tokens == length


def test_one_stop_string_is_like_a_list_of_one():
    assert sampling_params(asked(stop="ab"), DEFAULTS).stop == ("ab",)
    assert sampling_params(asked(stop=["ab"]), DEFAULTS).stop == ("ab",)


def test_logprobs_are_the_routes_business():
    sampling = sampling_params(asked(), DEFAULTS, logprobs=3, prompt_logprobs=2)
    assert (sampling.logprobs, sampling.prompt_logprobs) == (3, 2)


def test_stream_options_without_stream_are_refused():
    request = asked(stream_options=StreamOptions())
    with pytest.raises(RequestError, match="only allowed with stream"):
        sampling_params(request, DEFAULTS)
    assert sampling_params(msgspec.structs.replace(request, stream=True), DEFAULTS) == DEFAULTS
