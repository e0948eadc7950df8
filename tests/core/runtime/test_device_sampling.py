"""Settings by slot, and what reaches the kernels that filter and draw.

The kernels have tests of their own; here the likeliest token stands for what they would choose.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from ferrule.plan import MAX_LOGPROBS, Admission, SamplingParams
from ferrule.runtime.device_sampling import DeviceSampling, Needs, describe

VOCAB, KNOWN = 20, 18
SHAPES, PLAIN = Needs(shapes=True), Needs()


@pytest.fixture
def sampling():
    return DeviceSampling(3, vocab_size=VOCAB, num_known_tokens=KNOWN, device=torch.device("cpu"))


@pytest.fixture
def kernels(monkeypatch):
    """What the two kernels were called with last."""
    pytest.importorskip("triton", reason="triton exists for Linux only")
    from ferrule.kernels import draw, truncate

    seen = SimpleNamespace()

    def filters(x, temperature, top_k, top_p, min_p, num_known):
        seen.x, seen.temperature, seen.num_known = x, temperature, num_known
        seen.top_k, seen.top_p, seen.min_p = top_k, top_p, min_p
        return x

    def draws(logits, temperature, seeds, positions, num_known):
        seen.draws, seen.seeds, seen.positions = temperature, seeds, positions
        return logits[:, :num_known].argmax(dim=-1)

    monkeypatch.setattr(truncate, "truncate", filters)
    monkeypatch.setattr(draw, "draw", draws)
    return seen


def admit(sampling, slot, params, tokens=(1, 2, 3), num_prompt=3, stop_ids=()):
    sampling.admit(
        Admission(
            slot=slot, tokens=tokens, num_prompt=num_prompt, sampling=params, stop_ids=stop_ids
        )
    )
    sampling.flush()


def sample(sampling, logits, slots, positions, needs=SHAPES):
    sampling.prepare(needs)
    return sampling.sample(logits, torch.tensor(slots), torch.tensor(positions), needs).tolist()


def row(logits, sampling, kernels, slot, position=3):
    """One row's logits as they reach the filters."""
    sample(sampling, logits[None], [slot], [position])
    return kernels.x[0]


GREEDY = {"temperature": 0}


@pytest.mark.parametrize(
    ("params", "stop_ids", "needs"),
    [
        (SamplingParams(), (5,), Needs()),
        (SamplingParams(**GREEDY, top_p=0.5, top_k=3, min_p=0.1), (5,), Needs()),
        (SamplingParams(top_p=0.9), (), Needs(shapes=True)),
        (SamplingParams(top_k=1), (), Needs(shapes=True)),
        (SamplingParams(min_p=0.1), (), Needs(shapes=True)),
        (SamplingParams(**GREEDY, repetition_penalty=0.9), (), Needs(shapes=True)),
        (SamplingParams(**GREEDY, presence_penalty=-1), (), Needs(shapes=True)),
        (SamplingParams(**GREEDY, frequency_penalty=1), (), Needs(shapes=True)),
        (SamplingParams(**GREEDY, logit_bias={3: 1.0}), (), Needs(shapes=True)),
        (SamplingParams(**GREEDY, logit_bias={}), (), Needs()),
        (SamplingParams(**GREEDY, min_tokens=2), (5,), Needs(shapes=True)),
        (SamplingParams(**GREEDY, min_tokens=2), (), Needs()),
        # A tokenizer may have an eos that the embedding has no row for.
        (SamplingParams(**GREEDY, min_tokens=2), (VOCAB,), Needs()),
        (SamplingParams(**GREEDY, logprobs=0), (), Needs(logprobs=True)),
        (SamplingParams(top_k=2, logprobs=5), (), Needs(shapes=True, logprobs=True)),
        (SamplingParams(**GREEDY, prompt_logprobs=3), (), Needs()),
    ],
)
def test_a_slot_needs_only_what_it_asks_for(sampling, params, stop_ids, needs):
    asked_before = SamplingParams(top_k=3, presence_penalty=1.0, logprobs=2)
    admit(sampling, 1, asked_before)
    admit(sampling, 1, params, stop_ids=stop_ids)
    assert sampling.needs([1]) == needs
    assert sampling.needs([0]) == Needs(), "of another slot"


def test_slots_need_together_what_any_of_them_asks_for(sampling):
    admit(sampling, 0, SamplingParams(top_k=3))
    admit(sampling, 1, SamplingParams(logprobs=2))
    assert sampling.needs([0, 1]) == Needs(shapes=True, logprobs=True)
    assert sampling.needs([1, 2]) == Needs(logprobs=True)
    assert sampling.needs([]) == Needs()


def test_each_row_is_drawn_by_its_slots_settings(sampling, kernels):
    admit(sampling, 2, SamplingParams(temperature=0.5, seed=9))
    admit(sampling, 0, SamplingParams(temperature=0, seed=2**64 - 1))
    sample(sampling, torch.zeros(3, VOCAB), [2, 0, 2], [7, 8, 2**40], PLAIN)
    assert kernels.draws.tolist() == [0.5, 0, 0.5]
    assert kernels.seeds.tolist() == [9, -1, 9], "the 64 bits of a seed of any size"
    assert kernels.positions.tolist() == [7, 8, 2**40]


def test_each_row_is_filtered_by_its_slots_settings(sampling, kernels):
    admit(sampling, 1, SamplingParams(temperature=0.5, top_p=0.75, top_k=7, min_p=0.125, seed=4))
    admit(sampling, 0, SamplingParams(temperature=0))
    sample(sampling, torch.zeros(2, VOCAB), [1, 0], [7, 8])
    assert kernels.temperature.tolist() == [0.5, 0]
    assert (kernels.top_p.tolist(), kernels.min_p.tolist()) == ([0.75, 1], [0.125, 0])
    assert kernels.top_k.tolist() == [7, 0]
    assert kernels.seeds.tolist() == [4, 0]
    assert kernels.draws.tolist() == [1, 0], "filters have divided by the temperature"
    assert kernels.num_known == KNOWN


def test_settings_wait_for_the_flush(sampling, kernels):
    admit(sampling, 0, SamplingParams(temperature=0.5))
    sampling.admit(
        Admission(slot=0, tokens=(1,), num_prompt=1, sampling=SamplingParams(temperature=2.0))
    )
    sample(sampling, torch.zeros(1, VOCAB), [0], [1], PLAIN)
    assert kernels.draws.tolist() == [0.5]
    sampling.flush()
    sample(sampling, torch.zeros(1, VOCAB), [0], [1], PLAIN)
    assert kernels.draws.tolist() == [2]


def test_a_temperature_next_to_zero_is_greedy(sampling, kernels):
    admit(sampling, 0, SamplingParams(temperature=1e-320, top_k=1))
    assert sampling.needs([0]) == Needs()
    sample(sampling, torch.zeros(1, VOCAB), [0], [1], PLAIN)
    assert kernels.draws.tolist() == [0]


def test_numbers_beyond_the_vocabulary_and_the_context_harm_nobody(sampling, kernels):
    params = SamplingParams(top_k=2**63 - 1, min_tokens=2**63 - 1)
    admit(sampling, 0, params, stop_ids=(5, VOCAB, VOCAB + 7))
    logits = torch.arange(VOCAB) / 10
    expected = logits.clone()
    expected[5] = -torch.inf
    assert torch.equal(row(logits, sampling, kernels, 0, position=10**6), expected)
    assert kernels.top_k.tolist() == [VOCAB]


def test_ids_that_the_tokenizer_lacks_are_never_chosen(sampling, kernels):
    admit(sampling, 0, SamplingParams(temperature=0))
    assert sample(sampling, torch.arange(VOCAB)[None] / 10, [0], [3], PLAIN) == [KNOWN - 1]
    small = DeviceSampling(1, vocab_size=7, num_known_tokens=50, device=torch.device("cpu"))
    assert small.num_known_tokens == 7


def test_biases_are_added_to_their_tokens(sampling, kernels):
    admit(sampling, 1, SamplingParams(logit_bias={7: 2.5, 3: -100}))
    admit(sampling, 0, SamplingParams())
    logits = torch.randn(VOCAB)
    expected = logits.clone()
    expected[7] += 2.5
    expected[3] -= 100
    assert torch.equal(row(logits, sampling, kernels, 1), expected)
    assert torch.equal(row(logits, sampling, kernels, 0), logits)


def test_repetition_penalty_is_that_of_transformers(sampling, kernels):
    # As after a preemption: generated tokens come with the admission.
    tokens = (5, 5, 6, 9, 9, 0)
    admit(sampling, 2, SamplingParams(repetition_penalty=1.3), tokens=tokens, num_prompt=3)
    logits = torch.randn(VOCAB)
    processor = RepetitionPenaltyLogitsProcessor(penalty=1.3)
    expected = processor(torch.tensor([tokens]), logits[None].clone())[0]
    torch.testing.assert_close(row(logits, sampling, kernels, 2), expected)


def test_presence_and_frequency_are_of_the_output_alone(sampling, kernels):
    """``logit - count * frequency - (count > 0) * presence`` (OpenAI's API reference)."""
    params = SamplingParams(presence_penalty=0.5, frequency_penalty=0.25)
    admit(sampling, 1, params, tokens=(5, 5, 6, 9, 9, 0), num_prompt=3)
    subtracted = torch.zeros(VOCAB)
    subtracted[9], subtracted[0] = 2 * 0.25 + 0.5, 0.25 + 0.5
    logits = torch.zeros(VOCAB)
    assert torch.equal(row(logits, sampling, kernels, 1), -subtracted)


def test_what_was_chosen_counts_in_the_next_step(sampling, kernels):
    admit(sampling, 0, SamplingParams(temperature=0, frequency_penalty=1.0))
    admit(sampling, 2, SamplingParams(temperature=0))
    logits = torch.zeros(2, VOCAB)
    logits[:, 8], logits[:, 4] = 2.5, 2.0
    chosen = [sample(sampling, logits, [0, 2], [at, at]) for at in range(3, 8)]
    assert [tokens[0] for tokens in chosen] == [8, 4, 8, 4, 8]
    assert [tokens[1] for tokens in chosen] == [8] * 5, "it asked for no penalty"


def test_stop_tokens_are_barred_from_the_first_tokens(sampling, kernels):
    params = SamplingParams(temperature=0, min_tokens=2)
    admit(sampling, 0, params, stop_ids=(15, 16))
    admit(sampling, 1, SamplingParams(temperature=0), stop_ids=(15, 16))
    logits = torch.zeros(2, VOCAB)
    logits[:, 15] = 9
    chosen = [sample(sampling, logits, [0, 1], [at, at]) for at in (3, 4, 5)]
    assert chosen == [[0, 15], [0, 15], [15, 15]]


EVERYTHING = SamplingParams(
    temperature=0,
    logit_bias={7: 2.5},
    repetition_penalty=1.5,
    presence_penalty=1.0,
    frequency_penalty=1.0,
    min_tokens=40,
)


@pytest.mark.parametrize("between", [None, SamplingParams(), SamplingParams(top_k=3)])
def test_a_slot_that_is_taken_again_remembers_nothing(sampling, kernels, between):
    logits = 1 + torch.rand(VOCAB)
    admit(sampling, 1, EVERYTHING, tokens=(1, 2, 3, 4, 4), stop_ids=(11, 12))
    for position in (5, 6):
        row(logits, sampling, kernels, 1, position)
    if between is not None:
        admit(sampling, 1, between, tokens=(13,), num_prompt=1, stop_ids=(11,))
        # Other slots of the step make it count this one's tokens too.
        assert torch.equal(row(logits, sampling, kernels, 1, 1), logits)
    params = SamplingParams(
        temperature=0, repetition_penalty=2.0, presence_penalty=1.0, min_tokens=9
    )
    admit(sampling, 1, params, tokens=(8, 9), num_prompt=1, stop_ids=(17,))
    expected = logits.clone()
    expected[[8, 9]] /= 2
    expected[9] -= 1
    expected[17] = -torch.inf
    assert torch.equal(row(logits, sampling, kernels, 1, 2), expected)


def test_other_slots_keep_what_is_theirs_when_one_is_taken_again(sampling, kernels):
    admit(sampling, 0, SamplingParams(logit_bias={7: 2.5}))
    admit(sampling, 1, EVERYTHING)
    admit(sampling, 1, SamplingParams())
    assert row(torch.zeros(VOCAB), sampling, kernels, 0).nonzero().tolist() == [[7]]


def test_rows_that_pad_change_nothing_in_the_others(sampling, kernels):
    admit(sampling, 0, EVERYTHING)
    logits = torch.randn(4, VOCAB)
    alone = row(logits[2], sampling, kernels, 0)
    admit(sampling, 0, EVERYTHING)
    tokens = sample(sampling, logits, [3, 3, 0, 3], [0, 0, 3, 0])
    assert torch.equal(kernels.x[2], alone)
    assert all(0 <= token < KNOWN for token in tokens)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_descriptions_are_of_the_whole_distribution(dtype):
    torch.manual_seed(0)
    logits = (torch.randn(3, 50) * 4).to(dtype)
    tokens = torch.tensor([3, int(logits[1].argmax()), int(logits[2].argmin())])
    found = describe(logits, tokens)
    reference = logits.double().log_softmax(-1)
    chosen = reference.gather(1, tokens[:, None])
    torch.testing.assert_close(found.logprobs.double(), chosen[:, 0], atol=1e-5, rtol=0)
    higher = [sum(value > row[at] for value in row) for row, at in zip(logits, tokens, strict=True)]
    assert found.ranks.tolist() == [1 + int(count) for count in higher]
    assert found.top_ids.shape == found.top_logprobs.shape == (3, MAX_LOGPROBS)
    at_top = reference.gather(1, found.top_ids)
    torch.testing.assert_close(found.top_logprobs.double(), at_top, atol=1e-5, rtol=0)
    best = reference.sort(descending=True).values[:, :MAX_LOGPROBS]
    torch.testing.assert_close(at_top, best)


def test_a_vocabulary_may_be_smaller_than_the_most_alternatives():
    found = describe(torch.zeros(1, 5), torch.tensor([4]))
    assert sorted(found.top_ids[0].tolist()) == [0, 1, 2, 3, 4]
    assert found.ranks.tolist() == [1]
