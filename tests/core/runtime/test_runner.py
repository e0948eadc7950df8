"""The runner around a model whose next token is known: the sum of all tokens so far.

The model takes the sum through its attention (queries of zero attend to all places alike, and a
token's value is its id), so a wrong block, position or mask gives another token.
"""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch

from ferrule.layers import AttentionSpec
from ferrule.plan import Admission, Chunk, Plan, SamplingParams
from ferrule.runtime.kv_cache import KVCache
from ferrule.runtime.runner import ModelRunner

CPU = torch.device("cpu")
BLOCK, KNOWN, VOCAB = 4, 23, 29
GREEDY = SamplingParams(temperature=0)


def next_token(tokens):
    return sum(tokens) % KNOWN


def continued(tokens, count):
    tokens = list(tokens)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[-count:]


def raw_logits(total):
    """What the model says after tokens of this sum: ids beyond the tokenizer's are likeliest."""
    ids = np.arange(VOCAB)
    return np.where(ids < KNOWN, -0.25 * np.abs(ids - total % KNOWN), 3.0)


def raw_logprobs(tokens):
    logits = raw_logits(sum(tokens))
    return logits - np.log(np.exp(logits).sum())


class SumModel:
    """Keeps the sizes of what it was asked for."""

    def __init__(self):
        self.num_tokens = []
        self.num_logits = []

    def attention_specs(self):
        return [AttentionSpec(num_heads=1, num_kv_heads=1, head_dim=8, window=None, scale=1.0)]

    def __call__(self, tokens, positions, attends):
        self.num_tokens.append(len(tokens))
        values = tokens.float()[:, None, None].expand(-1, 1, 8)
        (attend,) = attends
        means = attend(torch.zeros_like(values), torch.ones_like(values), values.contiguous())
        return (means[:, 0, :1] * (positions[:, None] + 1)).round()

    def logits(self, hidden):
        self.num_logits.append(len(hidden))
        rows = [raw_logits(int(total)) for total in hidden[:, 0]]
        return torch.from_numpy(np.stack(rows)).float()


class Running:
    """A runner, and plans made by hand for whole sequences."""

    def __init__(self, num_known_tokens=KNOWN):
        self.model = SumModel()
        cache = KVCache(
            self.model.attention_specs(),
            num_blocks=40,
            block_size=BLOCK,
            dtype=torch.float32,
            device=CPU,
        )
        self.runner = ModelRunner(
            self.model,
            cache,
            max_batch_size=3,
            max_tokens=64,
            max_length=32,
            vocab_size=VOCAB,
            num_known_tokens=num_known_tokens,
            device=CPU,
        )
        self.blocks = list(range(40))
        self.tables = {}

    def admission(self, slot, tokens, params=GREEDY, num_prompt=None, stop_ids=()):
        self.tables[slot] = []
        return Admission(
            slot=slot,
            tokens=tokens,
            num_prompt=num_prompt or len(tokens),
            sampling=params,
            stop_ids=stop_ids,
        )

    def chunk(self, slot, start, end, samples=True):
        # Blocks from the end, so that tables are not simply 0, 1, 2.
        new = []
        while len(self.tables[slot] + new) * BLOCK < end:
            new.append(self.blocks.pop())
        self.tables[slot] += new
        return Chunk(
            slot=slot, start=start, num_tokens=end - start, new_blocks=new, samples=samples
        )

    def run(self, *chunks, admitted=(), released=()):
        plan = Plan(released=released, admitted=admitted, chunks=chunks)
        return self.runner.launch(plan).result()

    def generate(self, slot, tokens, count, params=GREEDY, **admission):
        """A prompt in one piece, then one token a step."""
        end = len(tokens)
        admitted = [self.admission(slot, tokens, params, **admission)]
        found = [*self.run(self.chunk(slot, 0, end), admitted=admitted).tokens]
        for at in range(end, end + count - 1):
            found += self.run(self.chunk(slot, at, at + 1)).tokens
        return found


@pytest.fixture
def running():
    return Running()


def test_a_prompt_and_its_answer_are_seen_whole_at_every_step(running):
    prompt = [3, 1, 4, 1, 5, 9]
    assert running.generate(1, prompt, 12) == continued(prompt, 12)


def test_a_chunk_inside_a_prompt_gives_no_token(running):
    prompt = [2, 7, 1, 8, 2, 8, 1, 8, 2]
    admitted = [running.admission(0, prompt)]
    assert running.run(running.chunk(0, 0, 5, samples=False), admitted=admitted).tokens == ()
    assert running.run(running.chunk(0, 5, 6, samples=False)).tokens == ()
    assert running.model.num_logits == []
    assert list(running.run(running.chunk(0, 6, 9)).tokens) == continued(prompt, 1)


def test_tokens_come_in_the_plans_order_for_the_chunks_that_sample(running):
    prompts = [[1, 2, 3], [10] * 9, [5, 6]]
    first = running.generate(2, prompts[2], 1)
    admitted = [running.admission(0, prompts[0]), running.admission(1, prompts[1])]
    result = running.run(
        running.chunk(1, 0, 7, samples=False),
        running.chunk(0, 0, 3),
        running.chunk(2, 2, 3),
        admitted=admitted,
    )
    assert list(result.tokens) == [next_token(prompts[0]), next_token([*prompts[2], *first])]
    # Only rows that give a token are worth the head's product.
    assert running.model.num_tokens[-1] == 11
    assert running.model.num_logits[-1] == 2


def test_a_plan_without_chunks_gives_nothing(running):
    running.generate(0, [1, 2], 1)
    assert running.run(released=[0]).tokens == ()
    assert running.model.num_tokens == [2]


def test_rows_that_the_tokenizer_does_not_know_are_never_chosen(running):
    """They are by far the likeliest here; a bias cannot call them back either."""
    bias = dict.fromkeys(range(KNOWN, VOCAB), 100.0)
    for temperature in (0.0, 2.0):
        params = SamplingParams(temperature=temperature, seed=1, logit_bias=bias)
        found = running.generate(0, [1, 2, 3], 20, params)
        assert max(found) < KNOWN
    assert max(Running(num_known_tokens=VOCAB).generate(0, [1, 2, 3], 1)) >= KNOWN


def test_reported_logprobs_are_the_models_own(running):
    """Before temperature, bias, filters and the rows that are left out."""
    prompt = [4, 8, 15]
    params = SamplingParams(
        temperature=0.5, top_k=2, seed=3, logit_bias={7: 50.0}, logprobs=VOCAB, min_tokens=1
    )
    admitted = [running.admission(0, prompt, params, stop_ids=(1,))]
    result = running.run(running.chunk(0, 0, 3), admitted=admitted)
    assert list(result.tokens) == [7]
    expected = raw_logprobs(prompt)
    described = result.logprobs[0]
    assert described.logprob == pytest.approx(expected[7], abs=1e-5)
    assert described.rank == 1 + (expected > expected[7]).sum()
    found = dict(zip(described.top_ids, described.top_logprobs, strict=True))
    assert [found[id] for id in range(VOCAB)] == pytest.approx(list(expected), abs=1e-5)


def test_only_who_asks_gets_logprobs(running):
    admitted = [
        running.admission(0, [1, 2]),
        running.admission(1, [3, 4], SamplingParams(temperature=0, logprobs=0)),
        running.admission(2, [5, 6], SamplingParams(temperature=0, logprobs=3)),
    ]
    chunks = [running.chunk(0, 0, 1, samples=False), running.chunk(2, 0, 2), running.chunk(1, 0, 2)]
    result = running.run(*chunks, admitted=admitted)
    # By index into the tokens, not into the chunks.
    assert result.logprobs.keys() == {0, 1}
    assert [len(result.logprobs[row].top_ids) for row in (0, 1)] == [3, 0]
    for row, prompt in ((0, [5, 6]), (1, [3, 4])):
        expected = raw_logprobs(prompt)[result.tokens[row]]
        assert result.logprobs[row].logprob == pytest.approx(expected, abs=1e-5)
    assert result.prompt_logprobs == {}


PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
DESCRIBED = SamplingParams(temperature=0, prompt_logprobs=2)


def described_prompt(running, cuts):
    """A prompt in chunks; what was told of it by position."""
    admitted, told = [running.admission(0, PROMPT, DESCRIBED)], []
    for start, end in zip([0, *cuts], [*cuts, len(PROMPT)], strict=True):
        chunk = running.chunk(0, start, end, samples=end == len(PROMPT))
        result = running.run(chunk, admitted=admitted)
        told += result.prompt_logprobs.get(0, [])
        admitted = []
    return told


@pytest.mark.parametrize("rows", [1, 3, 10, 256])
@pytest.mark.parametrize("cuts", [[], [4], [1, 5, 10]])
def test_a_prompt_is_described_alike_however_it_is_cut(running, monkeypatch, rows, cuts):
    in_one_piece = described_prompt(Running(), [])
    monkeypatch.setattr("ferrule.runtime.runner.PROMPT_LOGITS_ROWS", rows)
    told = described_prompt(running, cuts)
    assert max(running.model.num_logits) <= rows
    assert len(told) == len(PROMPT) - 1
    for position, one in enumerate(told):
        expected = raw_logprobs(PROMPT[: position + 1])
        assert one.logprob == pytest.approx(expected[PROMPT[position + 1]], abs=1e-5)
        assert one.rank == 1 + (expected > expected[PROMPT[position + 1]] + 1e-9).sum()
        assert one.top_logprobs == pytest.approx(sorted(expected)[:-3:-1], abs=1e-5)
    assert told == in_one_piece


def test_an_answer_is_not_described_as_if_it_were_prompt(running):
    admitted = [running.admission(0, [1, 2, 3], DESCRIBED)]
    running.run(running.chunk(0, 0, 3), admitted=admitted)
    assert running.run(running.chunk(0, 3, 4)).prompt_logprobs == {}
    # After a preemption the answer so far runs together with the prompt.
    admitted = [running.admission(1, [1, 2, 3, 6, 12], DESCRIBED, num_prompt=3)]
    result = running.run(running.chunk(1, 0, 5), admitted=admitted)
    assert len(result.prompt_logprobs[0]) == 2
    assert list(result.tokens) == continued([1, 2, 3, 6, 12], 1)


def test_a_slot_that_is_taken_again_remembers_nothing(running):
    loaded = SamplingParams(
        temperature=0,
        presence_penalty=2.0,
        repetition_penalty=3.0,
        logit_bias={5: 100.0, 6: -100.0},
        min_tokens=9,
        logprobs=2,
        prompt_logprobs=1,
    )
    before = running.generate(0, [7] * 10, 8, loaded, stop_ids=(0, 1, 2))
    assert before != continued([7] * 10, 8)
    admitted = [running.admission(0, [2, 2])]
    result = running.run(running.chunk(0, 0, 2), admitted=admitted, released=[0])
    assert list(result.tokens) == continued([2, 2], 1)
    assert result.logprobs == result.prompt_logprobs == {}
    assert running.generate(0, [6, 6, 6], 10) == continued([6, 6, 6], 10)


def test_penalties_go_on_after_a_preemption_as_without_one(running):
    params = SamplingParams(temperature=0, frequency_penalty=0.5, presence_penalty=0.3)
    prompt = [4, 4, 15]
    whole = running.generate(0, prompt, 10, params)
    assert whole != continued(prompt, 10)
    for cut in (1, 4, 9):
        again = Running()
        first = again.generate(0, prompt, cut, params)
        rest = again.generate(2, [*prompt, *first], 10 - cut, params, num_prompt=len(prompt))
        assert first + rest == whole


def test_draws_depend_neither_on_the_slot_nor_on_the_neighbours(running):
    params = SamplingParams(temperature=1.5, seed=77)
    alone = running.generate(0, [1, 2, 3], 8, params)
    other = msgspec.structs.replace(params, seed=78)
    together = Running()
    admitted = [together.admission(1, [9] * 5, other), together.admission(2, [1, 2, 3], params)]
    result = together.run(together.chunk(1, 0, 5), together.chunk(2, 0, 3), admitted=admitted)
    found = [result.tokens[1]]
    for step in range(7):
        chunks = together.chunk(1, 5 + step, 6 + step), together.chunk(2, 3 + step, 4 + step)
        found.append(together.run(*chunks).tokens[1])
    assert found == alone
    assert alone != Running().generate(0, [1, 2, 3], 8, other)
