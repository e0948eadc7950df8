"""Steps as graphs give what plain steps give, at any batch size, and few graphs are made."""

from __future__ import annotations

import pytest

from ferrule.llm import LLM
from ferrule.plan import SamplingParams
from ferrule.runtime.decode_graphs import graph_size
from ferrule.runtime.device_sampling import Needs
from ferrule.runtime.mixed_graphs import ROWS, SINGLES

pytestmark = [pytest.mark.gpu, pytest.mark.realmodel]


@pytest.fixture(scope="module")
def llm(smollm2):
    return LLM(smollm2 / "llama", devices="gpu", dtype="float32", max_batch_size=24)


def prompts(count):
    return [[100 + i, *range(1000, 1010 + 3 * i)] for i in range(count)]


def runner_of(llm):
    return llm.engine._runner


@pytest.mark.parametrize("count", [1, 3, 8, 24, 30])
def test_greedy_tokens_are_those_of_plain_steps(llm, count):
    params = SamplingParams(temperature=0, max_tokens=70, ignore_eos=True)
    with_graphs = llm.generate(prompts(count), params)
    runner = runner_of(llm)
    pool = runner.graphs.pool
    runner.graphs.pool = runner.mixed.pool = None
    try:
        plain = llm.generate(prompts(count), params)
    finally:
        runner.graphs.pool = runner.mixed.pool = pool
    assert [one.tokens for one in with_graphs] == [one.tokens for one in plain]


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.9}, {"top_k": 40, "presence_penalty": 0.5}])
def test_seeded_draws_are_the_same_at_any_batch_size(llm, filters):
    params = SamplingParams(temperature=0.8, seed=5, max_tokens=40, ignore_eos=True, **filters)
    (alone,) = llm.generate(prompts(1), params)
    together = llm.generate(prompts(20), params)
    assert together[0].tokens == alone.tokens


def test_a_beginning_that_many_share_changes_nothing(llm):
    shared = [(37 * i) % 20000 + 100 for i in range(400)]
    asked = [[*shared, *prompt] for prompt in prompts(20)]
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    alone = [llm.generate([one], params)[0].tokens for one in asked]
    assert [one.tokens for one in llm.generate(asked, params)] == alone
    assert any(key.shares for key in runner_of(llm).graphs.keys)


def test_log_probabilities_come_with_their_tokens(llm):
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True, logprobs=5)
    for result in llm.generate(prompts(5), params):
        entries = result.answers[0].logprobs
        assert len(entries) == 30
        for token, entry in zip(result.tokens, entries, strict=True):
            assert (entry.rank, entry.top_ids[0]) == (1, token)
            assert entry.top_logprobs[0] == pytest.approx(entry.logprob)


def test_a_stop_token_ends_one_sequence_and_harms_no_other(llm):
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    expected = [one.tokens for one in llm.generate(prompts(12), params)]
    stops = [tokens[20 + i] for i, tokens in enumerate(expected)]
    asked = [
        SamplingParams(temperature=0, max_tokens=60, ignore_eos=True, stop_token_ids=(stop,))
        for stop in stops
    ]
    for result, tokens, stop in zip(llm.generate(prompts(12), asked), expected, stops, strict=True):
        assert result.tokens[-1] == stop or result.tokens == tokens[: tokens.index(stop)]
        assert result.tokens == tokens[: len(result.tokens)]


def test_each_size_and_need_is_captured_once(llm):
    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    for count in range(1, 25):
        llm.generate(prompts(count), params)
    most = llm.info.max_batch_size
    sizes = {graph_size(count, most) for count in range(1, most + 1)}
    captured = runner_of(llm).graphs.keys
    plain = {key.size for key in captured if key.needs == Needs() and not key.shares}
    assert plain == sizes
    # Two kinds of need and a shared beginning, each there or not: at most eight graphs of a size.
    assert len(captured) <= 8 * len(sizes)
    shapes = runner_of(llm).mixed.shapes
    assert len(shapes) == len(set(shapes)) <= 2 * len(ROWS) * len(SINGLES)
