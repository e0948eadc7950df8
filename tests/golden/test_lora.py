"""The real adapters in one process: alone, many in one batch with the base, preempted, on a GGUF.

What is compared is what tests/data/golden/README.md measured: all greedy tokens before the first
near-tie.
"""

from __future__ import annotations

import pytest

from ferrule.llm import LLM
from ferrule.plan import SamplingParams

pytestmark = pytest.mark.realmodel

# Four adapters under eight names; pirate, rslora and ranks compute the same in three ways.
FILES = {"pirate": "llama-lora", "rslora": "llama-lora", "ranks": "llama-lora"}
GOLDEN = {"": "llama", **FILES, "mlp": "llama-lora-mlp"}


def load(path, adapters, *names, **options):
    paths = tuple((name, str(adapters / f"lora-{name.partition('-')[0]}")) for name in names)
    return LLM(path, devices="cpu", dtype="float32", enable_lora=True, lora_paths=paths, **options)


def short(prompts, most=60):
    return [prompt for prompt in prompts if len(prompt["prompt_ids"]) < most]


def check(llm, asked, most_tokens=24):
    """``asked``: names of adapters and prompts, run together."""
    steps = [min(prompt["firm_until"], most_tokens) for _, prompt in asked]
    results = llm.generate(
        [prompt["prompt_ids"] for _, prompt in asked],
        [SamplingParams(temperature=0, max_tokens=max(n, 1), ignore_eos=True) for n in steps],
        lora=[name for name, _ in asked],
    )
    for (name, prompt), result, firm in zip(asked, results, steps, strict=True):
        assert result.tokens[:firm] == prompt["greedy_ids"][:firm], (name, prompt["id"])


def test_each_adapter_alone(smollm2, adapters, golden):
    llm = load(smollm2 / "llama", adapters, "pirate", "rslora", "ranks", "mlp")
    assert llm.info.max_lora_rank == 16
    for name, file in GOLDEN.items():
        check(llm, [(name, short(golden(file))[0])], most_tokens=64)


def test_eight_adapters_and_the_base_in_one_batch(smollm2, adapters, golden):
    names = ["pirate", "rslora", "ranks", "mlp"]
    names += [f"{name}-again" for name in names]
    llm = load(smollm2 / "llama", adapters, *names, kv_cache_page_size=16)
    asked = [
        (name, prompt)
        for at in range(3)
        for name in (*names, "")
        for prompt in [short(golden(GOLDEN[name.removesuffix("-again")]))[at]]
    ]
    check(llm, asked)
    # Equal content is one adapter, whatever it is called: it is in one slot, and shares prefixes.
    assert llm.engine.stats().loras_placed == 3
    check(llm, asked)
    assert llm.engine.stats().prefix_hits_total > 0


def test_fewer_slots_than_adapters_and_too_little_cache(smollm2, adapters, golden):
    llm = load(
        smollm2 / "llama",
        adapters,
        "pirate",
        "ranks",
        "mlp",
        max_loras=2,
        max_cpu_loras=1,
        kv_cache_page_size=8,
        num_kv_blocks=14,
        max_length=100,
        max_batch_size=8,
    )
    asked = [
        (name, short(golden(GOLDEN[name]))[at])
        for at in range(2)
        for name in ("mlp", "pirate", "", "ranks")
    ]
    check(llm, asked)
    check(llm, asked[:2])
    stats = llm.engine.stats()
    assert stats.preemptions_total > 0
    assert stats.lora_placements_total > 3


def test_adapters_on_quantised_weights_with_permuted_rows(smollm2, adapters, golden):
    """llama.cpp keeps q and k in another order of rows; the adapters know nothing of it."""
    llm = load(smollm2 / "smollm2-135m.gguf", adapters, "pirate", "mlp")
    prompts = [(name, short(golden(GOLDEN[name]))[0]) for name in ("pirate", "mlp", "")]
    check(llm, prompts, most_tokens=16)
