from __future__ import annotations

import pytest

from ferrule.bench.load import Run
from ferrule.bench.measurement import Failure, Measurement
from ferrule.bench.report import ErrorCount, Spread, percentile, summarise
from ferrule.bench.settings import Load


@pytest.mark.parametrize(
    ("percent", "value"), [(0, 10), (50, 60), (90, 100), (99, 100), (100, 100), (49, 50)]
)
def test_a_percentile_is_one_of_the_values(percent, value):
    assert percentile([30, 10, 20, 40, 60, 50, 100, 70, 80, 90], percent) == value


def test_percentiles_of_a_hundred_values():
    values = list(range(1, 101))
    assert [percentile(values, each) for each in (50, 90, 99)] == [51, 91, 100]


def test_percentiles_of_few_or_no_values():
    assert percentile([7], 99) == 7
    assert percentile([], 50) is None


def answer(ttft, itl=0.01, e2e=1.0):
    return Measurement(
        prompt_tokens=100, cached_tokens=64, output_tokens=20, ttft=ttft, itl=itl, e2e=e2e
    )


LOAD = Load(concurrency=2, num_requests=4)


def test_figures_are_those_of_whole_answers_over_the_whole_time():
    outcomes = [answer(0.1), answer(0.3), answer(0.2, itl=None), Failure("lost")]
    point = summarise(LOAD, Run(outcomes=outcomes, seconds=2.0))
    assert (point.concurrency, point.rate) == (2, None)
    assert (point.requests, point.failed, point.seconds) == (4, 1, 2.0)
    assert (point.prompt_tokens, point.cached_tokens, point.output_tokens) == (300, 192, 60)
    assert (point.requests_per_second, point.output_tok_s, point.total_tok_s) == (1.5, 30, 180)
    assert point.ttft_ms == Spread(mean=200, p50=200, p90=300, p99=300, max=300)
    assert point.itl_ms == Spread(mean=10, p50=10, p90=10, p99=10, max=10)
    assert point.e2e_ms.p50 == 1000


def test_errors_are_counted_the_commonest_first():
    outcomes = [Failure("a"), Failure("b"), Failure("b"), answer(0.1)]
    point = summarise(LOAD, Run(outcomes=outcomes, seconds=1.0))
    assert point.errors == [ErrorCount(error="b", count=2), ErrorCount(error="a", count=1)]


def test_a_point_without_answers_has_no_latencies():
    point = summarise(LOAD, Run(outcomes=[Failure("a")], seconds=1.0))
    assert (point.failed, point.output_tok_s, point.ttft_ms) == (1, 0, Spread())
