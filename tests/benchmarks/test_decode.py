"""Decode speed on a CPU: one stream and eight through the server, and transformers beside them.

    OMP_NUM_THREADS=2 pytest tests/benchmarks/test_decode.py -m realmodel \\
        --benchmark-enable --benchmark-only

Each round generates 128 tokens a stream of SmolLM2-135M in bfloat16. Only ratios of one run mean
anything: what else runs on the machine slows all of them alike.
"""

from __future__ import annotations

import asyncio

import httpx
import pytest

pytestmark = pytest.mark.realmodel

NUM_TOKENS = 128
ROUNDS = {"rounds": 3, "warmup_rounds": 1, "iterations": 1}
PROMPT = list(range(1000, 1064))


@pytest.fixture(scope="module")
def url(smollm2, serving):
    with serving(smollm2 / "llama") as url:
        yield url


def run_streams(url, num_streams):
    async def one(client, index):
        body = {
            "model": "m",
            "prompt": [index, *PROMPT],
            "max_tokens": NUM_TOKENS,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
        }
        last = ""
        async with client.stream("POST", f"{url}/v1/completions", json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    last = line
        assert f'"completion_tokens":{NUM_TOKENS}' in last

    async def run():
        async with httpx.AsyncClient(timeout=120) as client:
            await asyncio.gather(*(one(client, index) for index in range(num_streams)))

    asyncio.run(run())


@pytest.mark.benchmark(group="decode")
@pytest.mark.parametrize("num_streams", [1, 8])
def test_streams_through_the_server(benchmark, url, num_streams):
    benchmark.pedantic(run_streams, args=(url, num_streams), **ROUNDS)
    rate = num_streams * NUM_TOKENS / benchmark.stats.stats.median
    benchmark.extra_info["tokens_per_second"] = round(rate, 1)


@pytest.mark.benchmark(group="decode")
@pytest.mark.parametrize("name", ["llama", "smollm2-135m.gguf"])
def test_one_sequence_in_the_same_process(benchmark, smollm2, name):
    from ferrule.llm import LLM
    from ferrule.plan import SamplingParams

    llm = LLM(smollm2 / name, devices="cpu", dtype="bfloat16", enable_prefix_caching=False)
    params = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)

    def run():
        (result,) = llm.generate([PROMPT], params)
        assert len(result.tokens) == NUM_TOKENS

    benchmark.pedantic(run, **ROUNDS)
    benchmark.extra_info["tokens_per_second"] = round(NUM_TOKENS / benchmark.stats.stats.median, 1)


@pytest.mark.benchmark(group="decode")
def test_transformers(benchmark, smollm2):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(smollm2 / "llama", dtype=torch.bfloat16).eval()
    ids = torch.tensor([PROMPT])
    mask = torch.ones_like(ids)

    def run():
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=NUM_TOKENS,
                min_new_tokens=NUM_TOKENS,
                do_sample=False,
            )
        assert out.shape[1] == len(PROMPT) + NUM_TOKENS

    benchmark.pedantic(run, **ROUNDS)
    rate = NUM_TOKENS / benchmark.stats.stats.median
    benchmark.extra_info["tokens_per_second"] = round(rate, 1)
