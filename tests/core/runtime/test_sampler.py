"""Sampling against transformers' logits processors, OpenAI's definitions, and the distribution."""

from __future__ import annotations

import msgspec
import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ferrule.plan import Admission, SamplingParams
from ferrule.runtime.sampler import describe, sample
from ferrule.runtime.sampling_state import SamplingState

VOCAB = 101


def state_with(*params: SamplingParams, tokens=((1, 2, 3),), num_prompt=3, stop_ids=()):
    state = SamplingState(8, vocab_size=VOCAB, device=torch.device("cpu"))
    for slot, param in enumerate(params):
        state.admit(
            Admission(
                slot=slot,
                tokens=tokens[slot % len(tokens)],
                num_prompt=num_prompt,
                sampling=param,
                stop_ids=stop_ids,
            )
        )
    return state


def draw(logits, params, *, positions, **admission):
    """One token for each position, all from one row of logits."""
    tokens = []
    state = state_with(params, **admission)
    for start in range(0, len(positions), 512):
        at = positions[start : start + 512]
        rows = logits.repeat(len(at), 1).clone()
        tokens.append(sample(rows, [0] * len(at), at, state))
    return torch.cat(tokens)


def test_temperature_zero_takes_the_likeliest_token():
    logits = torch.randn(4, VOCAB)
    state = state_with(*[SamplingParams(temperature=0)] * 4)
    chosen = sample(logits.clone(), [0, 1, 2, 3], [3] * 4, state)
    assert torch.equal(chosen, logits.argmax(-1))


@pytest.mark.parametrize(
    ("params", "warpers"),
    [
        (SamplingParams(temperature=0.7), [TemperatureLogitsWarper(0.7)]),
        (
            SamplingParams(temperature=1.5, top_k=5),
            [TemperatureLogitsWarper(1.5), TopKLogitsWarper(5)],
        ),
        (SamplingParams(top_p=0.6), [TopPLogitsWarper(0.6)]),
        (SamplingParams(min_p=0.2), [MinPLogitsWarper(0.2)]),
        (
            SamplingParams(temperature=0.8, top_k=12, top_p=0.8, min_p=0.05),
            [
                TemperatureLogitsWarper(0.8),
                TopKLogitsWarper(12),
                TopPLogitsWarper(0.8),
                MinPLogitsWarper(0.05),
            ],
        ),
    ],
    ids=["temperature", "top_k", "top_p", "min_p", "all"],
)
def test_draws_follow_the_distribution_that_transformers_would_draw_from(params, warpers):
    torch.manual_seed(3)
    logits = torch.randn(1, VOCAB) * 2
    expected = LogitsProcessorList(warpers)(torch.tensor([[1, 2, 3]]), logits.clone())
    probs = expected.softmax(-1)[0].double()
    num_draws = 20000
    seeded = msgspec.structs.replace(params, seed=11)
    tokens = draw(logits, seeded, positions=list(range(num_draws)))
    counts = torch.bincount(tokens, minlength=VOCAB).double()
    assert counts[probs == 0].sum() == 0, "a token was drawn that the filters exclude"
    likely = probs * num_draws >= 5
    chi2 = ((counts - probs * num_draws) ** 2 / (probs * num_draws))[likely].sum().item()
    freedom = int(likely.sum()) - 1
    # Far into the tail: mean + 5 standard deviations of chi-square.
    assert chi2 < freedom + 5 * (2 * max(freedom, 1)) ** 0.5


def test_a_draw_depends_on_seed_and_position_alone():
    torch.manual_seed(5)
    logits = torch.randn(6, VOCAB)
    params = [SamplingParams(temperature=1.0, top_p=0.9, seed=s) for s in (7, 8, 9, 7, 2**63, -1)]
    state = state_with(*params)
    together = sample(logits.clone(), list(range(6)), [3, 4, 5, 3, 7, 9], state)
    for row in reversed(range(6)):
        alone = sample(logits[row : row + 1].clone(), [row], [[3, 4, 5, 3, 7, 9][row]], state)
        assert alone[0] == together[row]


def test_another_seed_and_another_position_draw_other_tokens():
    logits = torch.zeros(1, VOCAB)
    first = draw(logits, SamplingParams(seed=1), positions=list(range(64)))
    again = draw(logits, SamplingParams(seed=1), positions=list(range(64)))
    other = draw(logits, SamplingParams(seed=2), positions=list(range(64)))
    assert torch.equal(first, again)
    assert (first == other).float().mean() < 0.2
    assert len(set(first.tolist())) > 20


def test_a_greedy_neighbour_and_a_drawing_one_do_not_touch_each_other():
    torch.manual_seed(6)
    logits = torch.randn(2, VOCAB)
    state = state_with(SamplingParams(temperature=0), SamplingParams(temperature=2.0, seed=4))
    both = sample(logits.clone(), [0, 1], [3, 3], state)
    assert both[0] == logits[0].argmax()
    assert both[1] == sample(logits[1:].clone(), [1], [3], state)[0]


def test_repetition_penalty_equals_transformers():
    torch.manual_seed(7)
    logits = torch.randn(1, VOCAB)
    tokens = (5, 9, 9, 40, 41)
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([tokens]), logits.clone())
    found = logits.clone()
    state = state_with(
        SamplingParams(temperature=0, repetition_penalty=1.7), tokens=(tokens,), num_prompt=3
    )
    sample(found, [0], [5], state)
    torch.testing.assert_close(found, expected)


def test_presence_and_frequency_penalties_count_the_output_alone():
    logits = torch.zeros(1, VOCAB)
    params = SamplingParams(temperature=0, presence_penalty=0.5, frequency_penalty=0.25)
    state = state_with(params, tokens=((5, 5, 9, 40, 40),), num_prompt=3)
    state.record([0], [41])
    sample(logits, [0], [6], state)
    # As OpenAI defines them: once for each occurrence, and once for having occurred.
    assert logits[0, 40] == -1.0
    assert logits[0, 41] == -0.75
    assert logits[0, [5, 9, 0]].tolist() == [0, 0, 0]


def test_a_slot_that_is_taken_again_forgets_its_penalties_and_biases():
    state = state_with(
        SamplingParams(
            temperature=0, presence_penalty=2.0, repetition_penalty=1.5, logit_bias={7: 100.0}
        ),
        tokens=((1, 2, 3, 7),),
    )
    state.admit(Admission(slot=0, tokens=[4], num_prompt=1, sampling=SamplingParams(temperature=0)))
    logits = torch.randn(1, VOCAB)
    kept = logits.clone()
    sample(logits, [0], [1], state)
    assert torch.equal(logits, kept)


def test_logit_bias_moves_the_choice():
    logits = torch.zeros(2, VOCAB)
    state = state_with(
        SamplingParams(temperature=0, logit_bias={17: 5.0, 18: -100.0}),
        SamplingParams(temperature=0),
    )
    chosen = sample(logits, [0, 1], [3, 3], state)
    assert chosen.tolist() == [17, 0]


def test_stop_tokens_cannot_be_chosen_before_min_tokens():
    logits = torch.zeros(1, VOCAB)
    logits[0, 50] = 10
    state = state_with(SamplingParams(temperature=0, min_tokens=2), stop_ids=(50, 51))
    assert [sample(logits.clone(), [0], [at], state).item() for at in (3, 4, 5)] == [0, 0, 50]


def test_logprobs_ranks_and_alternatives_are_those_of_the_whole_distribution():
    torch.manual_seed(8)
    logits = torch.randn(2, VOCAB)
    tokens = torch.tensor([3, int(logits[1].argmax())])
    first, second = describe(logits, tokens, [0, 4])
    reference = logits.double().log_softmax(-1)
    assert first.logprob == pytest.approx(reference[0, 3].item(), abs=1e-5)
    assert first.rank == 1 + int((logits[0] > logits[0, 3]).sum())
    assert first.top_ids == ()
    assert second.rank == 1
    values, ids = reference[1].topk(4)
    assert second.top_ids == tuple(ids.tolist())
    assert second.top_logprobs == pytest.approx(values.tolist(), abs=1e-5)


def test_numbers_beyond_the_vocabulary_harm_nobody():
    params = SamplingParams(temperature=1.0, seed=1, top_k=2**63 + 5, min_tokens=3)
    state = state_with(params, stop_ids=(50, VOCAB + 7))
    logits = torch.zeros(1, VOCAB)
    assert 0 <= sample(logits, [0], [3], state).item() < VOCAB
    assert logits[0, 50] == -torch.inf
    (described,) = describe(torch.zeros(1, 5), torch.tensor([1]), [20])
    assert len(described.top_ids) == 5


def test_a_temperature_next_to_zero_is_greedy():
    logits = torch.randn(1, VOCAB)
    state = state_with(SamplingParams(temperature=1e-320, seed=1))
    assert sample(logits.clone(), [0], [3], state) == logits.argmax()
