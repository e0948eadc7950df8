"""What ``/metrics`` tells: the engine's figures and how long requests took."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ferrule.engine.messages import Stats
from ferrule.server.histogram import Histogram

_FIRST_TOKEN_SECONDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0),
)
_TOKEN_SECONDS = (
    *(0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.05, 0.075, 0.1, 0.15),
    *(0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0),
)
_REQUEST_SECONDS = (0.1, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)
_TOKEN_COUNTS = tuple(float(2**power) for power in range(18))


class Metrics:
    """All that is counted, for one model; names and meanings are vLLM's, under another prefix.

    Args:
        model_name: The label of every series.
        stats: Gives the engine's newest figures.
        prefix: Goes before every name.
    """

    def __init__(
        self, model_name: str, stats: Callable[[], Stats], *, prefix: str = "ferrule:"
    ) -> None:
        self.first_token_seconds = Histogram(_FIRST_TOKEN_SECONDS)
        self.token_seconds = Histogram(_TOKEN_SECONDS)
        self.request_seconds = Histogram(_REQUEST_SECONDS)
        self.prompt_tokens = Histogram(_TOKEN_COUNTS)
        self.generation_tokens = Histogram(_TOKEN_COUNTS)
        self.finished: Counter[str] = Counter()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(self, model_name, stats, prefix))

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def stopwatch(self) -> Stopwatch:
        """For one sequence that starts now."""
        return Stopwatch(self)


class Stopwatch:
    """Times one sequence by this process's monotonic clock."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._start = self._last = time.monotonic()
        self._num_tokens = 0

    def tokens(self, num_tokens: int) -> None:
        """The sequence has this many tokens by now."""
        num_new = num_tokens - self._num_tokens
        if num_new <= 0:
            return
        now = time.monotonic()
        if self._num_tokens == 0:
            self._metrics.first_token_seconds.observe(now - self._start)
        else:
            self._metrics.token_seconds.observe((now - self._last) / num_new, num_new)
        self._num_tokens, self._last = num_tokens, now

    def finish(self, reason: str, num_prompt: int) -> None:
        """The sequence has ended."""
        metrics = self._metrics
        metrics.finished[reason] += 1
        metrics.request_seconds.observe(time.monotonic() - self._start)
        metrics.prompt_tokens.observe(num_prompt)
        metrics.generation_tokens.observe(self._num_tokens)


class _Collector(Collector):
    def __init__(
        self, metrics: Metrics, model_name: str, stats: Callable[[], Stats], prefix: str
    ) -> None:
        self._metrics = metrics
        self._model_name = model_name
        self._stats = stats
        self._prefix = prefix

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        yield self._gauge("num_requests_running", "Sequences being computed.", stats.running)
        yield self._gauge("num_requests_waiting", "Sequences waiting for a slot.", stats.waiting)
        yield self._gauge("kv_cache_usage_perc", "KV blocks in use, 0 to 1.", stats.kv_used)
        if stats.lora_slots:
            yield from self._loras(stats)
        yield from self._engine_totals(stats)
        yield self._finished()
        yield from self._histograms()

    def _loras(self, stats: Stats) -> Iterator[Metric]:
        yield self._gauge("lora_adapters", "Adapters that requests may name.", stats.loras_known)
        placed, slots = stats.loras_placed, stats.lora_slots
        yield self._gauge("lora_pool_slots_used", "Adapters on the device.", placed)
        yield self._gauge("lora_pool_slots_total", "Adapters that fit on the device.", slots)
        num_bytes = stats.lora_host_bytes
        yield self._gauge("lora_host_bytes", "Bytes of adapters in host memory.", num_bytes)
        yield self._gauge("lora_device_bytes", "Of the device's for them.", stats.lora_device_bytes)
        yield self._counter(
            "lora_placements",
            "How often an adapter was brought to the device.",
            stats.lora_placements_total,
        )

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(self._prefix + name, text, labels=["model_name"])
        family.add_metric([self._model_name], value)
        return family

    def _engine_totals(self, stats: Stats) -> Iterator[Metric]:
        for name, text, value in (
            ("prefix_cache_queries", "Prompt tokens looked up.", stats.prefix_queries_total),
            ("prefix_cache_hits", "Prompt tokens found in the cache.", stats.prefix_hits_total),
            ("prompt_tokens", "Prompt tokens admitted.", stats.prompt_tokens_total),
            ("generation_tokens", "Tokens generated.", stats.generation_tokens_total),
            ("num_preemptions", "Sequences that lost their blocks.", stats.preemptions_total),
            ("engine_steps", "Steps run.", stats.steps_total),
            ("engine_step_seconds", "Seconds spent in steps.", stats.step_seconds),
            (
                "engine_host_seconds",
                "Seconds of them in which the host worked rather than waited for the device.",
                stats.host_seconds,
            ),
        ):
            yield self._counter(name, text, value)

    def _finished(self) -> Metric:
        family = CounterMetricFamily(
            f"{self._prefix}request_success",
            "Sequences that ended, by reason.",
            labels=["model_name", "finished_reason"],
        )
        for reason in sorted({"stop", "length", "abort", *self._metrics.finished}):
            family.add_metric([self._model_name, reason], self._metrics.finished[reason])
        return family

    def _histograms(self) -> Iterator[Metric]:
        metrics = self._metrics
        for name, text, histogram in (
            ("time_to_first_token_seconds", "Until the first token.", metrics.first_token_seconds),
            ("inter_token_latency_seconds", "From token to token.", metrics.token_seconds),
            ("e2e_request_latency_seconds", "Until the last token.", metrics.request_seconds),
            ("request_prompt_tokens", "Length of prompts.", metrics.prompt_tokens),
            ("request_generation_tokens", "Length of answers.", metrics.generation_tokens),
        ):
            family = HistogramMetricFamily(self._prefix + name, text, labels=["model_name"])
            family.add_metric([self._model_name], histogram.buckets(), histogram.sum)
            yield family

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(self._prefix + name, text, labels=["model_name"])
        family.add_metric([self._model_name], value)
        return family
