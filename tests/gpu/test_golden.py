"""Reference outputs of a real model in bfloat16 on the device, step by step.

bfloat16 takes the other of two tokens where they are nearly tied, and from there on the texts
differ. So the engine is given the reference's own tokens and asked at each step what it would have
chosen: another token than the reference's is right only where the gap between the reference's two
best is below 0.3 (tests/data/golden/README.md has the measurements).
"""

from __future__ import annotations

import pytest

from ferrule.llm import LLM
from ferrule.plan import SamplingParams

pytestmark = [pytest.mark.gpu, pytest.mark.realmodel]

MODELS = {
    "llama": ("llama", "llama"),
    "mistral": ("mistral", "mistral"),
    "qwen2": ("qwen2", "qwen2"),
    "gguf": ("smollm2-135m.gguf", "llama"),
}
MODES = {
    "plain": {},
    "in chunks": {"max_batch_input_tokens": 48, "max_batch_size": 8},
    "preempted": {"num_kv_blocks": 120, "kv_cache_page_size": 16, "max_length": 1700},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_differs_from_float32_only_at_near_ties(smollm2, golden, name, mode):
    path, reference = MODELS[name]
    llm = LLM(smollm2 / path, devices="gpu", dtype="bfloat16", **MODES[mode])
    prompts = golden(reference)
    params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, prompt_logprobs=5)
    given = [prompt["prompt_ids"] + prompt["greedy_ids"] for prompt in prompts]
    results = llm.generate(given, params)
    compared = 0
    for prompt, result in zip(prompts, results, strict=True):
        steps = result.prompt_logprobs[len(prompt["prompt_ids"]) :]
        for step, (described, gap) in enumerate(zip(steps, prompt["gaps"], strict=True)):
            if gap >= 0.3:
                assert described.rank == 1, (prompt["id"], step, gap)
                compared += 1
        for step, top in enumerate(prompt["top5"]):
            found = dict(zip(steps[step].top_ids, steps[step].top_logprobs, strict=True))
            assert found[top["ids"][0]] == pytest.approx(top["logprobs"][0], abs=0.6)
    assert compared > 400


@pytest.mark.parametrize("name", MODELS)
def test_float32_greedy_tokens_equal_the_reference(smollm2, golden, name):
    path, reference = MODELS[name]
    llm = LLM(smollm2 / path, devices="gpu", dtype="float32")
    prompts = golden(reference)
    params = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
    for result, prompt in zip(
        llm.generate([p["prompt_ids"] for p in prompts], params), prompts, strict=True
    ):
        firm = prompt["firm_until"]
        assert result.tokens[:firm] == prompt["greedy_ids"][:firm], prompt["id"]


def test_a_prefix_hit_gives_the_same_choices(smollm2, golden):
    llm = LLM(smollm2 / "llama", devices="gpu", dtype="float32")
    prompt = next(p for p in golden("llama") if p["id"] == "long-1500")
    params = SamplingParams(temperature=0, max_tokens=32, ignore_eos=True)
    (first,) = llm.generate([prompt["prompt_ids"]], params)
    (again,) = llm.generate([prompt["prompt_ids"]], params)
    assert again.num_cached_tokens >= 1400
    assert again.tokens == first.tokens == prompt["greedy_ids"][:32]


def test_seeded_draws_are_the_same_on_the_device_as_on_the_host():
    import torch

    from ferrule.runtime.random import gumbel

    seeds, positions = torch.arange(-3, 5), torch.arange(8) * 1000
    on_device = gumbel(seeds.cuda(), positions.cuda(), 1000).cpu()
    torch.testing.assert_close(on_device, gumbel(seeds, positions, 1000), rtol=1e-5, atol=1e-5)
