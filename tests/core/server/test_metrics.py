from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ferrule.engine.messages import Stats
from ferrule.server.metrics import Metrics

BODY = {"model": "fake", "prompt": "Hello", "max_tokens": 5}


async def scrape(client):
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(response.text)
    return {(s.name, *sorted(s.labels.items())): s.value for f in families for s in f.samples}


def label(name, **labels):
    return (name, *sorted({"model_name": "fake", **labels}.items()))


async def test_engine_figures_are_shown(client):
    values = await scrape(client)
    assert values[label("ferrule:num_requests_running")] == 2
    assert values[label("ferrule:num_requests_waiting")] == 1
    assert values[label("ferrule:kv_cache_usage_perc")] == 0.5
    assert values[label("ferrule:engine_steps_total")] == 7
    assert values[label("ferrule:engine_step_seconds_total")] == 1.5
    assert values[label("ferrule:engine_host_seconds_total")] == 0.25
    for name in ("prompt_tokens", "generation_tokens", "prefix_cache_queries",
                 "prefix_cache_hits", "num_preemptions"):  # fmt: skip
        assert values[label(f"ferrule:{name}_total")] == 0


async def test_requests_are_counted_and_timed(client, engine):
    engine.delay = 0.002
    await client.post("/v1/completions", json=BODY)
    await client.post("/v1/completions", json={**BODY, "max_tokens": 100, "stream": True})
    values = await scrape(client)
    success = "ferrule:request_success_total"
    assert values[label(success, finished_reason="length")] == 1
    assert values[label(success, finished_reason="stop")] == 1
    assert values[label("ferrule:time_to_first_token_seconds_count")] == 2
    assert values[label("ferrule:time_to_first_token_seconds_sum")] >= 0.002
    assert values[label("ferrule:inter_token_latency_seconds_count")] == 4 + 28
    assert values[label("ferrule:e2e_request_latency_seconds_count")] == 2
    assert values[label("ferrule:request_prompt_tokens_sum")] == 4
    assert values[label("ferrule:request_generation_tokens_sum")] == 5 + 29
    assert values[label("ferrule:request_generation_tokens_bucket", le="8.0")] == 1
    assert values[label("ferrule:request_generation_tokens_bucket", le="+Inf")] == 2


def test_tokens_that_come_together_share_their_time(monkeypatch):
    now = iter([0.0, 1.0, 1.4])
    monkeypatch.setattr("ferrule.server.metrics.time.monotonic", lambda: next(now))
    metrics = Metrics("m", Stats)
    watch = metrics.stopwatch()
    watch.tokens(1)
    watch.tokens(1)
    watch.tokens(5)
    assert metrics.first_token_seconds.sum == pytest.approx(1.0)
    assert metrics.token_seconds.sum == pytest.approx(0.4)
    assert dict(metrics.token_seconds.buckets())["0.1"] == 4


def test_prefix_can_be_another():
    assert b"vllm:num_requests_running" in Metrics("m", Stats, prefix="vllm:").text()


def test_two_registries_do_not_meet():
    assert Metrics("a", Stats).text() != Metrics("b", Stats).text()
