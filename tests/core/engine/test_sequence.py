from __future__ import annotations

import pytest

from ferrule.engine.block_key import block_key, root_key
from ferrule.engine.messages import Request
from ferrule.engine.sequence import Sequence, Status
from ferrule.plan import SamplingParams, TokenLogprobs


def sequence(tokens=(1, 2, 3), *, final_length=10, stop_ids=(), lora="", **sampling):
    request = Request(
        id="a",
        tokens=list(tokens),
        sampling=SamplingParams(**sampling),
        stop_ids=tuple(stop_ids),
        lora=lora,
    )
    return Sequence.from_request(request, arrival=0, final_length=final_length)


def entry(token):
    return TokenLogprobs(-float(token), 1, (token,), (-float(token),))


def test_a_new_sequence_waits_with_its_prompt():
    new = sequence()

    assert (new.status, new.tokens, new.num_computed, new.blocks) == (
        Status.WAITING,
        [1, 2, 3],
        0,
        [],
    )


def test_the_request_keeps_its_own_tokens():
    new = sequence()
    new.accept(4, None)

    assert new.request.tokens == [1, 2, 3]


def test_a_seed_is_drawn_once_and_only_where_none_was_given():
    assert sequence(seed=5).sampling.seed == 5
    first, second = sequence(), sequence()
    assert first.sampling.seed != second.sampling.seed
    assert first.admission().sampling.seed == first.admission().sampling.seed


def test_an_admission_is_not_changed_by_later_tokens():
    new = sequence(stop_ids=[7])
    new.slot = 3
    admission = new.admission()
    new.accept(4, None)

    assert (admission.slot, admission.num_prompt, admission.stop_ids) == (3, 3, (7,))
    assert list(admission.tokens) == [1, 2, 3]


def test_a_token_goes_on_until_the_final_length():
    new = sequence(final_length=5)

    assert new.accept(4, None).finish_reason is None
    assert new.accept(4, None).finish_reason == "length"


def test_stop_wins_over_length():
    output = sequence(final_length=4, stop_ids=[7]).accept(7, None)

    assert (output.finish_reason, output.stop_reason, output.tokens) == ("stop", 7, [7])


@pytest.mark.parametrize(("min_tokens", "expected"), [(0, "stop"), (1, "stop"), (2, None)])
def test_a_stop_token_before_min_tokens_is_a_token_like_others(min_tokens, expected):
    new = sequence(stop_ids=[7], min_tokens=min_tokens)

    assert new.accept(7, None).finish_reason == expected


def test_a_sequence_that_is_at_its_length_takes_no_token():
    output = sequence(final_length=3, logprobs=0).accept(4, entry(4))

    assert (output.tokens, output.logprobs, output.finish_reason) == ([], None, "length")


def test_block_keys_chain_from_adapter_and_salt():
    new = sequence(range(10), lora="l")
    first = block_key(root_key("l", ""), range(4))

    assert new.block_keys(1, 4) == [first]
    assert new.block_keys(2, 4) == [first, block_key(first, range(4, 8))]
    assert new.block_keys(1, 4) == [first]


def test_prompt_logprobs_are_joined_over_chunks_and_given_once():
    new = sequence([1, 2, 3, 4, 5], prompt_logprobs=0)
    new.take_prompt_logprobs(0, [entry(2), entry(3)])
    # The start of the prompt again, as after a preemption, and then its end and past it.
    new.take_prompt_logprobs(0, [entry(2), entry(3), entry(4)])
    new.take_prompt_logprobs(3, [entry(5), entry(9)])

    assert new.accept(9, None).prompt_logprobs == [None, entry(2), entry(3), entry(4), entry(5)]
    new.take_prompt_logprobs(0, [entry(2)])
    assert new.accept(9, None).prompt_logprobs is None
