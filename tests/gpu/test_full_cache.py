"""More and longer requests than the cache holds: all of them end, and memory suffices."""

from __future__ import annotations

import os

import pytest
import torch

from ferrule.engine.messages import Request
from ferrule.llm import LLM
from ferrule.plan import SamplingParams

pytestmark = pytest.mark.gpu


def test_none_is_lost_when_the_cache_overflows(capsys):
    checkpoint = os.environ.get("FERRULE_TEST_FULL_SIZE")
    if checkpoint is None:
        pytest.skip(
            "FERRULE_TEST_FULL_SIZE names no full-size checkpoint (16 GB) to fill a card with"
        )
    # 512 take some four minutes on an H100.
    count = int(os.environ.get("FERRULE_TEST_FULL_CACHE", "64"))
    llm = LLM(checkpoint, devices="gpu")
    engine = llm.engine
    generator = torch.Generator().manual_seed(0)
    params = SamplingParams(temperature=0, max_tokens=100, ignore_eos=True)
    for index in range(count):
        prompt = torch.randint(1000, 32000, (16000,), generator=generator).tolist()
        engine.add(Request(id=str(index), tokens=prompt, sampling=params))
    lengths, used = dict.fromkeys(map(str, range(count)), 0), 0.0
    while engine.has_work:
        for output in engine.step():
            lengths[output.id] += len(output.tokens)
        used = max(used, engine.stats().kv_used)
    with capsys.disabled():
        print(f"\n{count} requests of 16k: cache used {used:.2f}, {engine.stats()}")
    assert set(lengths.values()) == {100}
    assert used > 0.9
