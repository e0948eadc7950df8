from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as Reference

from ferrule.server.histogram import Histogram

BOUNDS = (0.5, 1.0, 2.0)


@given(st.lists(st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 9.0])))
def test_counts_as_prometheus_does(values):
    registry = CollectorRegistry()
    reference = Reference("x", "x", buckets=BOUNDS, registry=registry)
    histogram = Histogram(BOUNDS)
    for value in values:
        reference.observe(value)
        histogram.observe(value)
    for bound, count in histogram.buckets():
        assert count == registry.get_sample_value("x_bucket", {"le": bound})
    assert histogram.sum == registry.get_sample_value("x_sum")


def test_a_value_can_count_several_times():
    histogram = Histogram(BOUNDS)
    histogram.observe(0.7, 3)
    assert histogram.buckets() == [("0.5", 0), ("1.0", 3), ("2.0", 3), ("+Inf", 3)]
