from __future__ import annotations

from ferrule.plan import TokenLogprobs
from ferrule.server.logprobs import chat_logprobs, completion_logprobs

ENTRY = TokenLogprobs(logprob=-3.0, rank=9, top_ids=(66, 174, 67), top_logprobs=(-0.5, -1.0, -2.0))


def test_chat_lists_as_many_alternatives_as_asked(model):
    content = chat_logprobs(model.tokenizer, [261], [ENTRY], 2).content
    assert (content[0].token, content[0].logprob, content[0].bytes) == ("Hello", -3, [*b"Hello"])
    assert [(top.token, top.logprob, top.bytes) for top in content[0].top_logprobs] == [
        ("a", -0.5, [97]),
        ("bytes:\\xf0", -1.0, [0xF0]),
    ]


def test_nothing_asked_gives_nothing(model):
    assert chat_logprobs(model.tokenizer, [261], None, 2) is None


def test_completion_adds_the_chosen_token_to_the_alternatives(model):
    shaped = completion_logprobs(model.tokenizer, [5, 261], [None, ENTRY], [0, 1], 2)
    assert shaped.token_logprobs == [None, -3.0]
    assert shaped.top_logprobs == [None, {"a": -0.5, "bytes:\\xf0": -1.0, "Hello": -3.0}]
    assert shaped.text_offset == [0, 1]


def test_parts_of_characters_stay_apart(model):
    entry = TokenLogprobs(logprob=-1.0, rank=1, top_ids=(174, 175), top_logprobs=(-1.0, -2.0))
    shaped = completion_logprobs(model.tokenizer, [174], [entry], [0], 2)
    assert len(shaped.top_logprobs[0]) == 2


def test_without_a_tokenizer_tokens_are_their_ids():
    shaped = completion_logprobs(None, [261], [ENTRY], [0], 1)
    assert shaped.tokens == ["token_id:261"]
    assert shaped.top_logprobs == [{"token_id:66": -0.5, "token_id:261": -3.0}]
