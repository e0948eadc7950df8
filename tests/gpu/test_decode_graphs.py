"""Steps as graphs give what plain steps give, at any batch size, and few graphs are made."""

from __future__ import annotations

import pytest

from ferrule.llm import LLM
from ferrule.plan import SamplingParams
from ferrule.runtime.decode_graphs import graph_size

pytestmark = [pytest.mark.gpu, pytest.mark.realmodel]


@pytest.fixture(scope="module")
def llm(smollm2):
    return LLM(smollm2 / "llama", devices="gpu", dtype="float32", max_batch_size=24)


def prompts(count):
    return [[100 + i, *range(1000, 1010 + 3 * i)] for i in range(count)]


@pytest.mark.parametrize("count", [1, 3, 8, 24, 30])
def test_greedy_tokens_are_those_of_plain_steps(llm, count):
    params = SamplingParams(temperature=0, max_tokens=70, ignore_eos=True)
    runner = llm.engine._runner
    graphs = runner.graphs
    with_graphs = llm.generate(prompts(count), params)
    runner.graphs = None
    try:
        plain = llm.generate(prompts(count), params)
    finally:
        runner.graphs = graphs
    assert [one.tokens for one in with_graphs] == [one.tokens for one in plain]


def test_seeded_draws_are_the_same_at_any_batch_size(llm):
    params = SamplingParams(temperature=0.8, top_p=0.9, seed=5, max_tokens=40, ignore_eos=True)
    (alone,) = llm.generate(prompts(1), params)
    together = llm.generate(prompts(20), params)
    assert together[0].tokens == alone.tokens


def test_each_size_is_captured_once(llm):
    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    for count in range(1, 25):
        llm.generate(prompts(count), params)
    most = llm.info.max_batch_size
    expected = {graph_size(count, most) for count in range(1, most + 1)}
    assert set(llm.engine._runner.graphs.sizes) == expected
