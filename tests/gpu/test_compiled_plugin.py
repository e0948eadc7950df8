"""An architecture in plain torch, compiled, beside the built-in one on the same weights."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import pytest

from ferrule.engine.messages import Request
from ferrule.llm import LLM
from ferrule.plan import SamplingParams

pytestmark = pytest.mark.gpu

PLUGIN = str(Path(__file__).with_name("plain_llama.py"))
MODELS = {
    "built in": {"architecture": "llama"},
    "plain torch": {"architecture": "plain-llama", "plugins": (PLUGIN,)},
}


@pytest.mark.realmodel
def test_it_gives_the_reference_and_is_compiled_once_for_all_layers(smollm2, golden):
    from torch._dynamo import utils

    utils.counters.clear()
    llm = LLM(smollm2 / "llama", devices="gpu", dtype="float32", **MODELS["plain torch"])
    prompts = golden("llama")
    params = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
    results = llm.generate([prompt["prompt_ids"] for prompt in prompts], params)
    for prompt, result in zip(prompts, results, strict=True):
        firm = prompt["firm_until"]
        assert result.tokens[:firm] == prompt["greedy_ids"][:firm], prompt["id"]
    # One for many rows and one for a single row, whatever the number of layers.
    assert 1 <= utils.counters["stats"]["unique_graphs"] <= 2


def milliseconds_a_step(llm, num_sequences):
    """The median of steps in which all sequences decode; the first round captures graphs."""
    engine, found = llm.engine, []
    for round in range(2):
        for index in range(num_sequences):
            prompt = [1000 + (37 * index + 11 * i) % 30000 for i in range(400)]
            params = SamplingParams(temperature=0, max_tokens=150, ignore_eos=True)
            engine.add(Request(id=f"{round}-{index}", tokens=prompt, sampling=params))
        found.clear()
        while engine.has_work:
            began = time.perf_counter()
            given = sum(len(output.tokens) for output in engine.step())
            if given == num_sequences:
                found.append(time.perf_counter() - began)
    return 1000 * statistics.median(found[5:-5])


def test_how_much_slower_it_is(capsys):
    """Printed, not asserted: timings belong into performance.md."""
    checkpoint = os.environ.get("FERRULE_TEST_FULL_SIZE")
    if checkpoint is None:
        pytest.skip("FERRULE_TEST_FULL_SIZE names no full-size checkpoint (16 GB) to time")
    times = {}
    for name, options in MODELS.items():
        llm = LLM(checkpoint, devices="gpu", max_length=4096, **options)
        times[name] = {count: milliseconds_a_step(llm, count) for count in (1, 8, 64)}
        del llm
    with capsys.disabled():
        print(f"\nms a step by number of sequences: {times}")
    assert all(value > 0 for found in times.values() for value in found.values())
