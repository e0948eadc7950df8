"""More and longer requests than the cache holds: all of them end, and memory suffices."""

from __future__ import annotations

import os

import pytest
import torch

from ferrule.engine.messages import Request
from ferrule.llm import LLM
from ferrule.plan import SamplingParams

pytestmark = pytest.mark.gpu

PROMPT = 16000
STEPS_A_PROMPT = 8  # of 2048 tokens


def test_none_is_lost_when_the_cache_overflows(capsys):
    checkpoint = os.environ.get("FERRULE_TEST_FULL_SIZE")
    if checkpoint is None:
        pytest.skip(
            "FERRULE_TEST_FULL_SIZE names no full-size checkpoint (16 GB) to fill a card with"
        )
    # Asked for a number, say 512, the cache takes the whole card; that takes minutes.
    asked = os.environ.get("FERRULE_TEST_FULL_CACHE")
    count = int(asked or 64)
    num_blocks = None if asked else count // 4 * PROMPT // 64
    llm = LLM(checkpoint, devices="gpu", num_kv_blocks=num_blocks)
    engine, info = llm.engine, llm.info
    num_fitting = info.num_blocks * info.block_size // PROMPT
    # Prompts come in faster than answers end until the cache is full.
    num_tokens = 3 * STEPS_A_PROMPT * num_fitting // 2
    assert count > 2 * num_fitting, f"{num_fitting} requests fit: ask for more"
    generator = torch.Generator().manual_seed(0)
    params = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    for index in range(count):
        prompt = torch.randint(1000, 32000, (PROMPT,), generator=generator).tolist()
        engine.add(Request(id=str(index), tokens=prompt, sampling=params))
    lengths, used = dict.fromkeys(map(str, range(count)), 0), 0.0
    while engine.has_work:
        for output in engine.step():
            lengths[output.id] += len(output.tokens)
        used = max(used, engine.stats().kv_used)
    with capsys.disabled():
        print(
            f"\n{count} requests of {PROMPT} tokens and {num_tokens} more, "
            f"{num_fitting} at a time: cache used {used:.2f}, {engine.stats()}"
        )
    assert set(lengths.values()) == {num_tokens}
    assert used > 0.9
