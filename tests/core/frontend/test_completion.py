from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferrule.engine.messages import Output, Request
from ferrule.errors import RequestError
from ferrule.frontend.answer import Answer
from ferrule.frontend.completion import Completion
from ferrule.plan import SamplingParams, TokenLogprobs

EOS = 1


def entry(number: int) -> TokenLogprobs:
    return TokenLogprobs(logprob=-float(number), rank=1, top_ids=(), top_logprobs=())


def run(tokenizer, tokens, *, finish="length", stop_reason=None, size=1, **sampling):
    """Pushes tokens in outputs of ``size``; gives the completion and the whole answer."""
    request = Request(
        id="r", tokens=tokenizer.encode("Say it."), sampling=SamplingParams(**sampling)
    )
    completion = Completion(request, tokenizer)
    answer = Answer()
    for start in range(0, len(tokens), size):
        chunk = tokens[start : start + size]
        is_last = start + size >= len(tokens)
        delta = completion.push(
            Output(
                id="r",
                tokens=chunk,
                finish_reason=finish if is_last else None,
                stop_reason=stop_reason if is_last else None,
                logprobs=[entry(start + i) for i in range(len(chunk))]
                if "logprobs" in sampling
                else None,
            )
        )
        answer.add(delta)
        if completion.finish_reason is not None:
            break
    return completion, answer


def test_text_comes_as_soon_as_it_is_certain(tokenizer):
    completion = Completion(Request(id="r", tokens=[0]), tokenizer)
    tokens = tokenizer.encode("é!", add_special_tokens=False)
    texts = [completion.push(Output(id="r", tokens=[token])).text for token in tokens]
    assert texts == ["", "é", "!"]
    assert completion.num_tokens == 3


def test_unfinished_character_shows_only_at_the_end(tokenizer):
    tokens = tokenizer.encode("🦊", add_special_tokens=False)[:2]
    completion, answer = run(tokenizer, tokens)
    assert answer.text == "\N{REPLACEMENT CHARACTER}"
    assert answer.tokens == tokens
    assert completion.finish_reason == "length"


def test_eos_ends_without_text_and_without_stop_reason(tokenizer):
    tokens = [*tokenizer.encode("Hello", add_special_tokens=False), EOS]
    completion, answer = run(tokenizer, tokens, finish="stop", stop_reason=EOS)
    assert (answer.text, answer.tokens) == ("Hello", tokens)
    assert (answer.finish_reason, answer.stop_reason) == ("stop", None)
    assert completion.num_tokens == 2


def test_stop_token_of_the_request_is_named_and_its_text_left_out(tokenizer):
    tokens = tokenizer.encode("ab", add_special_tokens=False)
    _, answer = run(
        tokenizer, tokens, finish="stop", stop_reason=tokens[-1], stop_token_ids=(tokens[-1],)
    )
    assert (answer.text, answer.stop_reason, answer.tokens) == ("a", tokens[-1], tokens)


def test_stop_string_is_cut_with_its_tokens_and_asks_for_an_abort(tokenizer):
    tokens = tokenizer.encode("one STOP two", add_special_tokens=False)
    completion, answer = run(tokenizer, tokens, stop=("STOP",), logprobs=0)
    assert answer.text == "one "
    assert (answer.finish_reason, answer.stop_reason) == ("stop", "STOP")
    assert tokenizer.decode(answer.tokens) == "one "
    assert [logprob.logprob for logprob in answer.logprobs] == [0, -1, -2, -3]
    assert completion.needs_abort
    assert completion.num_tokens == 8


def test_stop_string_that_ends_with_the_engines_last_token_needs_no_abort(tokenizer):
    tokens = tokenizer.encode("one STOP", add_special_tokens=False)
    completion, answer = run(tokenizer, tokens, stop=("STOP",))
    assert (answer.text, answer.finish_reason) == ("one ", "stop")
    assert not completion.needs_abort


def test_token_that_straddles_the_cut_stays(tokenizer):
    tokens = tokenizer.encode("a fox", add_special_tokens=False)
    assert len(tokens) == 2
    _, answer = run(tokenizer, tokens, stop=("fox",))
    assert (answer.text, answer.tokens) == ("a ", tokens)


def test_nothing_of_a_stop_string_that_begins_inside_a_character_is_kept(tokenizer):
    tokens = tokenizer.encode("a🦊", add_special_tokens=False)
    _, answer = run(tokenizer, tokens, stop=("🦊",))
    assert (answer.text, answer.tokens) == ("a", tokens[:1])


def test_stop_string_in_the_first_min_tokens_does_not_stop(tokenizer):
    tokens = tokenizer.encode("a.b.c", add_special_tokens=False)
    _, answer = run(tokenizer, tokens, stop=(".",), min_tokens=2)
    assert (answer.text, answer.finish_reason) == ("a.b", "stop")


def test_held_text_comes_out_when_the_engine_ends(tokenizer):
    tokens = tokenizer.encode("a ST", add_special_tokens=False)
    _, answer = run(tokenizer, tokens, stop=("STOP",))
    assert (answer.text, answer.tokens, answer.finish_reason) == ("a ST", tokens, "length")


def test_offsets_say_where_each_token_begins(tokenizer):
    tokens = tokenizer.encode("Hello é fox", add_special_tokens=False)
    _, answer = run(tokenizer, tokens, logprobs=0)
    pieces = [tokenizer.token_bytes(token) for token in tokens]
    assert pieces == [b"Hello", b" ", b"\xc3", b"\xa9", b" fox"]
    assert answer.offsets == [0, 5, 6, 6, 7]


def test_outputs_after_the_end_change_nothing(tokenizer):
    tokens = tokenizer.encode("x.", add_special_tokens=False)
    completion, _ = run(tokenizer, tokens, stop=(".",))
    late = completion.push(Output(id="r", tokens=tokens, finish_reason="abort"))
    assert (late.text, late.tokens, late.finish_reason) == ("", [], None)
    assert completion.num_tokens == 2


def test_without_a_tokenizer_only_ids_come_out():
    completion = Completion(Request(id="r", tokens=[5]), None)
    delta = completion.push(Output(id="r", tokens=[7, 8], finish_reason="length"))
    assert (delta.text, delta.tokens, delta.offsets) == ("", [7, 8], [0, 0])


def test_prompt_logprobs_and_cached_tokens_are_kept(tokenizer):
    completion = Completion(Request(id="r", tokens=[0, 66]), tokenizer)
    completion.push(Output(id="r", prompt_logprobs=[None, entry(1)], num_cached_tokens=16))
    completion.push(Output(id="r", tokens=[66], finish_reason="length"))
    assert completion.prompt_logprobs == [None, entry(1)]
    assert completion.num_cached_tokens == 16


def test_refused_request_raises_what_the_engine_said(tokenizer):
    completion = Completion(Request(id="r", tokens=[0]), tokenizer)
    with pytest.raises(RequestError, match="needs 99 blocks"):
        completion.push(Output(id="r", finish_reason="error", error="it needs 99 blocks"))


@given(text=st.text(alphabet="ab.é🦊 ", max_size=20), size=st.integers(1, 7), data=st.data())
def test_however_outputs_are_cut_the_answer_is_the_same(tokenizer_of_module, text, size, data):
    stop = tuple(
        data.draw(st.lists(st.text(alphabet="ab.é🦊", min_size=1, max_size=3), max_size=2))
    )
    tokens = tokenizer_of_module.encode(text, add_special_tokens=False) or [0]
    _, one_by_one = run(tokenizer_of_module, tokens, stop=stop, logprobs=0)
    _, together = run(tokenizer_of_module, tokens, stop=stop, logprobs=0, size=size)
    assert vars(one_by_one) | {"_pieces": one_by_one.text} == vars(together) | {
        "_pieces": together.text
    }
    assert len(one_by_one.tokens) == len(one_by_one.logprobs) == len(one_by_one.offsets)
    if not any(s in text for s in stop):
        assert one_by_one.text == tokenizer_of_module.decode(tokens)


@pytest.fixture(scope="module")
def tokenizer_of_module():
    import fake_server

    return fake_server.make_tokenizer()
