"""What each slot remembers of how its tokens are chosen."""

from __future__ import annotations

import struct
from collections import Counter

import pytest
import torch

from ferrule.plan import Admission, SamplingParams
from ferrule.runtime.sampling_state import SamplingState

VOCAB = 20


@pytest.fixture
def state():
    return SamplingState(4, vocab_size=VOCAB, device=torch.device("cpu"))


def admit(state, slot, params, tokens=(1, 2, 3), num_prompt=None, stop_ids=()):
    num_prompt = len(tokens) if num_prompt is None else num_prompt
    state.admit(
        Admission(
            slot=slot, tokens=tokens, num_prompt=num_prompt, sampling=params, stop_ids=stop_ids
        )
    )


def counts(state, slot):
    """Tokens of the slot's output, with how often each occurred."""
    return {token: n for token, n in enumerate(state.output_counts[slot].tolist()) if n}


def test_every_setting_is_written_to_its_slot_alone(state):
    params = SamplingParams(
        temperature=0.5,
        top_p=0.75,
        top_k=7,
        min_p=0.125,
        repetition_penalty=1.5,
        presence_penalty=0.25,
        frequency_penalty=-0.5,
        seed=9,
    )
    admit(state, 2, params)
    columns = {
        "temperature": 0.5,
        "top_p": 0.75,
        "top_k": 7,
        "min_p": 0.125,
        "repetition": 1.5,
        "presence": 0.25,
        "frequency": -0.5,
        "seed": 9,
    }
    untouched = SamplingState(4, vocab_size=VOCAB, device=torch.device("cpu"))
    for name, value in columns.items():
        column = getattr(state, name).tolist()
        assert column.pop(2) == value, name
        assert column == getattr(untouched, name).tolist()[:3], name
    assert state.params == [None, None, params, None]


@pytest.mark.parametrize(
    ("params", "draws", "filters", "penalised"),
    [
        (SamplingParams(temperature=0), False, False, False),
        (SamplingParams(), True, False, False),
        (SamplingParams(top_p=0.9), True, True, False),
        (SamplingParams(top_k=1), True, True, False),
        (SamplingParams(min_p=0.1), True, True, False),
        (SamplingParams(temperature=0, repetition_penalty=0.9), False, False, True),
        (SamplingParams(temperature=0, presence_penalty=-1), False, False, True),
        (SamplingParams(temperature=0, frequency_penalty=1), False, False, True),
    ],
)
def test_a_slot_pays_only_for_what_it_asks_for(state, params, draws, filters, penalised):
    admit(state, 1, SamplingParams(top_k=3, presence_penalty=1.0))  # of another sequence, before
    admit(state, 1, params)
    assert (state.draws[1], state.filters[1], state.penalised[1]) == (draws, filters, penalised)
    assert (state.draws[0], state.filters[0], state.penalised[0]) == (False, False, False)


def test_bias_and_minimum_are_gone_when_the_slot_is_taken_again(state):
    params = SamplingParams(logit_bias={7: 2.5, 3: -100}, min_tokens=4)
    admit(state, 1, params, stop_ids=(18, 19))
    ids, values = state.bias[1]
    assert dict(zip(ids.tolist(), values.tolist(), strict=True)) == {7: 2.5, 3: -100}
    least, stops = state.minimum[1]
    assert (least, stops.tolist()) == (4, [18, 19])
    admit(state, 0, SamplingParams())
    assert set(state.bias) == set(state.minimum) == {1}
    admit(state, 1, SamplingParams(), stop_ids=(18, 19))
    assert state.bias == state.minimum == {}


def test_a_minimum_without_stop_tokens_bars_nothing(state):
    admit(state, 0, SamplingParams(min_tokens=4))
    assert state.minimum == {}


SEEDS = [0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, -1, -(2**63)]


def test_a_seed_of_any_size_is_stored_as_its_64_bits(state):
    for seed in SEEDS:
        admit(state, 3, SamplingParams(seed=seed))
        (expected,) = struct.unpack("<q", struct.pack("<Q", seed % 2**64))
        assert state.seed[3].item() == expected


def test_outputs_are_counted_and_prompts_are_only_marked(state):
    params = SamplingParams(presence_penalty=1.0)
    # As after a preemption: generated tokens come with the admission.
    admit(state, 2, params, tokens=(5, 5, 6, 9, 9, 5), num_prompt=3)
    for token in (9, 0, 19):
        state.record([2], [token])
    assert counts(state, 2) == Counter([9, 9, 5, 9, 0, 19])
    assert state.in_prompt[2].nonzero().flatten().tolist() == [5, 6]
    assert not state.output_counts[[0, 1, 3]].any()


def test_only_slots_with_penalties_are_counted(state):
    admit(state, 0, SamplingParams(frequency_penalty=1.0))
    admit(state, 1, SamplingParams())
    state.record([1, 0], [4, 6])
    assert counts(state, 0) == {6: 1}
    assert counts(state, 1) == {}


def test_counts_begin_anew_with_each_sequence(state):
    params = SamplingParams(repetition_penalty=1.1)
    admit(state, 0, params, tokens=(1, 2))
    state.record([0, 0], [8, 8])
    # One without penalties in between must not hide what the one before left.
    admit(state, 0, SamplingParams())
    admit(state, 0, params, tokens=(3,))
    assert counts(state, 0) == {}
    assert state.in_prompt[0].nonzero().flatten().tolist() == [3]


def test_nothing_of_the_vocabularys_size_is_kept_until_somebody_asks_for_penalties(state):
    admit(state, 0, SamplingParams(top_p=0.5, logit_bias={1: 1.0}))
    state.record([0], [3])
    assert state.in_prompt is None
    assert state.output_counts is None
