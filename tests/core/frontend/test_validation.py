from __future__ import annotations

import pytest

from ferrule.errors import RequestError
from ferrule.frontend.validation import check_choices, check_sampling
from ferrule.plan import SamplingParams

GOOD = [
    {},
    {"temperature": 0},
    {"temperature": 2.0},
    {"top_p": 1.0},
    {"top_p": 1e-9},
    {"presence_penalty": -2, "frequency_penalty": 2},
    {"logit_bias": {0: -100, 99: 100}},
    {"logprobs": 0},
    {"logprobs": 20, "prompt_logprobs": 20},
    {"min_tokens": 5, "max_tokens": 5},
    {"max_tokens": 0},
    {"stop": ("a",) * 16},
    {"stop_token_ids": (0, 99)},
    {"seed": 0},
    {"seed": -(2**63)},
]

BAD = [
    ("temperature", {"temperature": -0.1}),
    ("temperature", {"temperature": 2.1}),
    ("temperature", {"temperature": float("nan")}),
    ("top_p", {"top_p": 0.0}),
    ("top_p", {"top_p": 1.1}),
    ("top_k", {"top_k": -2}),
    ("min_p", {"min_p": 1.5}),
    ("repetition_penalty", {"repetition_penalty": 0.0}),
    ("repetition_penalty", {"repetition_penalty": float("inf")}),
    ("repetition_penalty", {"repetition_penalty": 1e308}),
    ("presence_penalty", {"presence_penalty": 2.5}),
    ("frequency_penalty", {"frequency_penalty": -2.5}),
    ("logit_bias", {"logit_bias": {100: 1.0}}),
    ("logit_bias", {"logit_bias": {-1: 1.0}}),
    ("logit_bias", {"logit_bias": {5: 101.0}}),
    ("logit_bias", {"logit_bias": {5: float("nan")}}),
    ("logprobs", {"logprobs": 21}),
    ("logprobs", {"logprobs": -1}),
    ("prompt_logprobs", {"prompt_logprobs": 21}),
    ("max_tokens", {"max_tokens": -1}),
    ("min_tokens", {"min_tokens": -1}),
    ("min_tokens", {"min_tokens": 6, "max_tokens": 5}),
    ("stop", {"stop": ("a",) * 17}),
    ("stop", {"stop": ("a", "")}),
    ("stop_token_ids", {"stop_token_ids": (100,)}),
    ("stop_token_ids", {"stop_token_ids": (1,) * 257}),
    ("seed", {"seed": 2**64}),
]


@pytest.mark.parametrize("fields", GOOD, ids=str)
def test_values_within_their_range_pass(fields):
    sampling = SamplingParams(**fields)
    check_sampling(sampling, vocab_size=100)
    assert sampling == SamplingParams(**fields)


@pytest.mark.parametrize(("param", "fields"), BAD, ids=str)
def test_value_outside_its_range_names_the_field(param, fields):
    with pytest.raises(RequestError, match=param) as caught:
        check_sampling(SamplingParams(**fields), vocab_size=100)
    assert caught.value.param == param


@pytest.mark.parametrize("n", [1, 128])
def test_up_to_128_choices_pass(n):
    assert check_choices(n) is None


@pytest.mark.parametrize("n", [0, -1, 129])
def test_other_numbers_of_choices_are_refused(n):
    with pytest.raises(RequestError, match="between 1 and 128") as caught:
        check_choices(n)
    assert caught.value.param == "n"
