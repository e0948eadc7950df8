"""Reference outputs in bfloat16 through `ferrule serve` on the device and the openai client."""

from __future__ import annotations

import asyncio

import openai
import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.realmodel]

MODELS = {
    "llama": ("llama", "llama"),
    "mistral": ("mistral", "mistral"),
    "qwen2": ("qwen2", "qwen2"),
    "gguf": ("smollm2-135m.gguf", "llama"),
}


@pytest.mark.parametrize("name", MODELS)
def test_eight_in_flight_give_the_reference_up_to_the_first_near_tie(
    smollm2, golden, serving, name
):
    path, reference = MODELS[name]
    prompts = [prompt for prompt in golden(reference) if prompt["firm_until_bf16"] > 0]

    async def ask(url):
        gate = asyncio.Semaphore(8)
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:

            async def one(prompt):
                async with gate:
                    return await client.completions.create(
                        model="m",
                        prompt=prompt["prompt_ids"],
                        max_tokens=prompt["firm_until_bf16"],
                        temperature=0,
                        extra_body={"ignore_eos": True, "return_token_ids": True},
                    )

            return await asyncio.gather(*(one(prompt) for prompt in prompts))

    flags = ["--dtype", "bfloat16", "--max-batch-input-tokens", "64", "--max-batch-size", "8"]
    with serving(smollm2 / path, *flags, devices="gpu") as url:
        for _ in range(2):  # the second time from the prefix cache
            for answer, prompt in zip(asyncio.run(ask(url)), prompts, strict=True):
                firm = prompt["firm_until_bf16"]
                assert answer.choices[0].token_ids == prompt["greedy_ids"][:firm], prompt["id"]
