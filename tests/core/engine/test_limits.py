from __future__ import annotations

import pytest

from ferrule.engine.limits import Limits
from ferrule.engine.messages import Request
from ferrule.errors import ContextLengthError, RequestError
from ferrule.plan import SamplingParams

LIMITS = Limits(max_length=100, num_kv_tokens=64)


def final_length(num_prompt, max_tokens):
    sampling = SamplingParams(max_tokens=max_tokens)
    return LIMITS.final_length(Request(id="a", tokens=[1] * num_prompt, sampling=sampling))


@pytest.mark.parametrize(
    ("num_prompt", "max_tokens", "expected"),
    [(10, 5, 15), (10, 55, 65), (10, None, 65), (64, None, 65), (64, 1, 65), (64, 0, 64)],
)
def test_a_sequence_ends_at_what_it_asked_for_or_where_the_cache_does(
    num_prompt, max_tokens, expected
):
    assert final_length(num_prompt, max_tokens) == expected


def test_a_sequence_ends_with_the_context():
    roomy = Limits(max_length=100, num_kv_tokens=1000)

    assert roomy.final_length(Request(id="a", tokens=[1] * 99)) == 100
    sampling = SamplingParams(max_tokens=0)
    assert roomy.final_length(Request(id="a", tokens=[1] * 100, sampling=sampling)) == 100


@pytest.mark.parametrize(("num_prompt", "max_tokens"), [(10, 56), (65, None), (65, 0), (65, 1)])
def test_a_sequence_that_cannot_fit_alone_is_refused_with_both_sizes(num_prompt, max_tokens):
    with pytest.raises(RequestError, match=r"cache for 6\d tokens .* holds 64"):
        final_length(num_prompt, max_tokens)


def test_a_prompt_that_leaves_no_room_in_the_context_is_refused_with_both_lengths():
    with pytest.raises(ContextLengthError, match="100 tokens and the context holds 100") as caught:
        final_length(100, None)

    assert caught.value.code == "context_length_exceeded"
