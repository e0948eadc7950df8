"""Reference outputs of a real model through `ferrule serve` and the official openai client."""

from __future__ import annotations

import asyncio
import re

import httpx
import openai
import pytest

pytestmark = pytest.mark.realmodel

# name: (path below the models folder, golden file, how far log probabilities may be apart, flags)
SERVERS = {
    "llama": ("llama", "llama", 1e-3, []),
    "mistral": ("mistral", "mistral", 1e-3, []),
    "qwen2": ("qwen2", "qwen2", 1e-3, []),
    "gguf in chunks": (
        "smollm2-135m.gguf",
        "llama",
        0.15,
        ["--max-batch-size", "8", "--max-batch-input-tokens", "48"],
    ),
    "llama preempted": (
        "llama",
        "llama",
        1e-3,
        ["--num-kv-blocks", "40", "--kv-cache-page-size", "8", "--max-length", "320"],
    ),
}


@pytest.fixture(scope="module", params=SERVERS)
def server(request, smollm2, golden, serving):
    path, reference, tolerance, flags = SERVERS[request.param]
    prompts = golden(reference)
    if "--max-length" in flags:
        prompts = [prompt for prompt in prompts if len(prompt["prompt_ids"]) < 200]
    with serving(smollm2 / path, "--dtype", "float32", *flags) as url:
        yield request.param, url, prompts, tolerance


def num_steps(prompt):
    return max(prompt["firm_until"], len(prompt["top5"]))


def client_of(url, kind=openai.OpenAI):
    return kind(base_url=f"{url}/v1", api_key="none", max_retries=0)


def completion(client, prompt, **options):
    return client.completions.create(
        model="m",
        prompt=prompt["prompt_ids"],
        max_tokens=num_steps(prompt),
        temperature=0,
        logprobs=5,
        extra_body={"ignore_eos": True, "return_token_ids": True},
        **options,
    )


def check(choice, prompt, tolerance):
    firm = prompt["firm_until"]
    assert choice.token_ids[:firm] == prompt["greedy_ids"][:firm], prompt["id"]
    for step, reference in enumerate(prompt["top5"][: firm + 1]):
        best = max(choice.logprobs.top_logprobs[step].values())
        assert best == pytest.approx(reference["logprobs"][0], abs=tolerance), prompt["id"]


def test_one_request_after_another(server):
    _, url, prompts, tolerance = server
    client = client_of(url)
    for prompt in prompts[:3]:
        check(completion(client, prompt).choices[0], prompt, tolerance)


def test_eight_requests_in_flight_then_again_from_the_prefix_cache(server):
    name, url, prompts, tolerance = server

    async def run(prompts):
        gate = asyncio.Semaphore(8)
        async with openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0
        ) as client:

            async def one(prompt):
                async with gate:
                    return await completion(client, prompt)

            return await asyncio.gather(*(one(prompt) for prompt in prompts))

    for sent in (prompts, prompts[len(prompts) // 2 :]):
        answers = asyncio.run(run(sent))
        for answer, prompt in zip(answers, sent, strict=True):
            check(answer.choices[0], prompt, tolerance)
    metrics = httpx.get(f"{url}/metrics").text
    if "preempted" in name:
        assert counter(metrics, "num_preemptions_total") > 0
    else:
        # The long prompt's second run, and what other tests sent before.
        assert counter(metrics, "prefix_cache_hits_total") > 1000


def counter(metrics: str, name: str) -> float:
    found = re.search(rf"^ferrule:{name}(?:{{[^}}]*}})? (\S+)$", metrics, re.MULTILINE)
    assert found, metrics[:3000]
    return float(found[1])


def test_streamed_chats_are_the_reference_text(server):
    _, url, prompts, _ = server
    client = client_of(url)
    chats = [p for p in prompts if p["kind"] == "chat" and p["firm_until"] >= 8]
    for prompt in chats[:2]:
        chunks = list(
            client.chat.completions.create(
                model="m",
                messages=prompt["messages"],
                max_tokens=prompt["firm_until"],
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True, "return_token_ids": True},
            )
        )
        tokens = [
            token
            for chunk in chunks
            for choice in chunk.choices
            for token in (choice.model_extra or {}).get("token_ids") or []
        ]
        assert tokens == prompt["greedy_ids"][: prompt["firm_until"]], prompt["id"]
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text
        assert re.sub(r"<\|\w+\|>", "", prompt["greedy_text"]).startswith(text)
        assert chunks[-1].usage.prompt_tokens == len(prompt["prompt_ids"])
