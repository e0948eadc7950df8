from __future__ import annotations

from ferrule.engine.messages import Output, Request
from ferrule.frontend.completion import Completion
from ferrule.server.usage import usage


def finished(num_prompt, num_generated, num_cached=0):
    completion = Completion(Request(id="r", tokens=[5] * num_prompt), None)
    completion.push(
        Output(
            id="r",
            tokens=[6] * num_generated,
            finish_reason="length",
            num_cached_tokens=num_cached,
        )
    )
    return completion


def test_each_prompt_counts_once_and_every_answer_counts():
    counted = usage([finished(10, 1, 8), finished(10, 2), finished(20, 3, 4), finished(20, 4)], 2)
    assert (counted.prompt_tokens, counted.completion_tokens) == (30, 10)
    assert counted.total_tokens == 40
    assert counted.prompt_tokens_details.cached_tokens == 12
