from __future__ import annotations

import gc
from collections import deque

import pytest

from ferrule.engine.block_pool import BlockPool
from ferrule.engine.messages import Outputs, Request, encode
from ferrule.engine.scheduler import Scheduler
from ferrule.engine.step import Step
from ferrule.plan import SamplingParams, StepResult

NUM_SEQUENCES = 256


def decoding_scheduler(*, block_size: int = 16) -> Scheduler:
    """256 sequences that have their prompts behind them, with blocks that fill at all times."""
    scheduler = Scheduler(
        BlockPool(30_000),
        max_batch_size=NUM_SEQUENCES,
        max_batch_tokens=8192,
        max_length=100_000,
        block_size=block_size,
    )
    for n in range(NUM_SEQUENCES):
        sampling = SamplingParams(max_tokens=99_000, seed=1)
        tokens = [n, *range(127 + n % block_size)]
        scheduler.add(
            Request(id=f"chatcmpl-{n:032x}", tokens=tokens, sampling=sampling, stop_ids=(7,))
        )
    while True:
        step = scheduler.schedule()
        scheduler.advance(step, result_of(step))
        if len(step.chunks) == NUM_SEQUENCES and all(c.num_tokens == 1 for c in step.chunks):
            return scheduler


def result_of(step: Step) -> StepResult:
    return StepResult(tokens=[5] * sum(chunk.samples for chunk in step.chunks))


@pytest.fixture(autouse=True)
def frozen_heap():
    """As in the engine process, the collector does not walk what was there before."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.benchmark(group="scheduler")
def test_steady_decode_step_of_256_sequences(benchmark):
    scheduler = decoding_scheduler()
    result = StepResult(tokens=[5] * NUM_SEQUENCES)

    in_flight = deque([scheduler.schedule()])

    def step():
        in_flight.append(scheduler.schedule())
        assert in_flight[-1].plan
        return scheduler.advance(in_flight.popleft(), result)

    # A fixed number of steps, so that the pool never runs out and nobody is preempted.
    outputs = benchmark.pedantic(step, rounds=1000, warmup_rounds=20)

    assert len(outputs) == NUM_SEQUENCES


@pytest.mark.benchmark(group="scheduler")
def test_encoding_the_outputs_of_256_sequences(benchmark):
    scheduler = decoding_scheduler()
    outputs = scheduler.advance(scheduler.schedule(), StepResult(tokens=[5] * NUM_SEQUENCES))

    assert benchmark(lambda: encode(Outputs(outputs=outputs)))


@pytest.mark.benchmark(group="scheduler")
def test_admitting_a_prompt_of_8000_tokens_that_is_cached(benchmark):
    scheduler = Scheduler(
        BlockPool(2000),
        max_batch_size=8,
        max_batch_tokens=8192,
        max_length=16_384,
        block_size=16,
    )
    ids = iter(range(10**9))

    def answer_one():
        sampling = SamplingParams(max_tokens=1, seed=1)
        scheduler.add(Request(id=str(next(ids)), tokens=list(range(8000)), sampling=sampling))
        step = scheduler.schedule()
        return scheduler.advance(step, result_of(step))

    answer_one()
    (output,) = benchmark(answer_one)

    assert output.num_cached_tokens == 7984
