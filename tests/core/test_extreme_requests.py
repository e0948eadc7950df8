"""No value of any field of a request ends more than that request."""

from __future__ import annotations

import json

import httpx

FIELDS = [
    "max_tokens",
    "min_tokens",
    "top_k",
    "top_p",
    "min_p",
    "temperature",
    "seed",
    "n",
    "logprobs",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "stop",
    "stop_token_ids",
    "logit_bias",
    "echo",
    "stream",
    "ignore_eos",
    "cache_salt",
    "return_token_ids",
    "best_of",
    "suffix",
    "stream_options",
    "user",
]
EXTREMES = [
    *(2**31, 2**63 - 1, 2**63, 2**64, 2**70, -1, -(2**63), -(2**70)),
    *(1e308, -1e308, 1e-320, 0, True, None, "x", [], {}),
]
OF_FIELD = {
    "logit_bias": [{"5": 1e308}, {"99999999": 1}, {"-1": 1}, {"x": 1}, {"5": 100}],
    "stop_token_ids": [[2**70], [-1], [2**63], [99999999]],
    "stop": [[""], ["a"] * 100, "\ud800"],
}
PROMPTS = [
    [],
    [-1],
    [272],
    [2**40],
    [2**70],
    [[1], [2]],
    [["a"]],
    "",
    ["", ""],
    [1.5],
    None,
    {"a": 1},
]


def test_extreme_values_are_served_or_refused_and_the_engine_goes_on(tiny_llama, serving):
    usual = {"model": "m", "prompt": [1, 2, 3], "max_tokens": 2}
    bodies = [
        {**usual, field: value}
        for field in FIELDS
        for value in (*EXTREMES, *OF_FIELD.get(field, ()))
    ]
    bodies += [{**usual, "prompt": prompt} for prompt in PROMPTS]
    statuses = set()
    with serving(tiny_llama) as url, httpx.Client(base_url=url, timeout=60) as client:
        for body in bodies:
            answer = client.post("/v1/completions", content=json.dumps(body))
            assert answer.status_code in (200, 400), (body, answer.text)
            statuses.add(answer.status_code)
        assert client.get("/health").json()["status"] == "ready"
    assert statuses == {200, 400}
