from __future__ import annotations

import fake_server
import msgspec
import pytest

from ferrule.errors import ContextLengthError, RequestError
from ferrule.frontend.model import adapted_model
from ferrule.frontend.prepare import make_requests, tokenize
from ferrule.plan import LoraInfo, SamplingParams

INFO = msgspec.structs.replace(fake_server.INFO, max_length=100)


def make(model, tokens=(2, 3), info=INFO, request_id="r", sampling=None, **options):
    return make_requests(
        model,
        info,
        list(tokens),
        sampling or SamplingParams(),
        request_id=request_id,
        **options,
    )


def test_an_adapter_may_have_tokens_of_its_own(model):
    adapted = adapted_model(
        model, "a", LoraInfo(content="c", location="p", vocab_size=325), created=1
    )
    assert make(adapted, [324])[0].tokens == [324]
    with pytest.raises(RequestError, match="token id 325; the model's ids are 0 to 324"):
        make(adapted, [325])


def test_text_gets_one_bos_and_ids_pass_through(model):
    assert tokenize(model, "Hello") == [0, 261]
    assert tokenize(model, "<s>Hello") == [0, 261]
    assert tokenize(model, "Hello", add_special_tokens=False) == [261]
    assert tokenize(model, (5, 6)) == [5, 6]


def test_text_without_a_tokenizer_says_what_to_send(model):
    model = type(model)(
        names=("ids",), created=0, tokenizer=None, template=None, sampling=SamplingParams()
    )
    assert tokenize(model, [5]) == [5]
    with pytest.raises(RequestError, match=r"ids has no tokenizer.*\n.*return_token_ids") as caught:
        tokenize(model, "text", param="prompt[1]")
    assert caught.value.param == "prompt[1]"
    with pytest.raises(RequestError, match="stop_token_ids"):
        make(model, sampling=SamplingParams(stop=("x",)))


def test_choices_count_their_seeds_up(model):
    requests = make(model, sampling=SamplingParams(seed=7), n=3)
    assert [request.id for request in requests] == ["r-0", "r-1", "r-2"]
    assert [request.sampling.seed for request in requests] == [7, 8, 9]
    assert all(request.tokens == [2, 3] for request in requests)


def test_zero_is_a_seed(model):
    assert make(model, sampling=SamplingParams(seed=0))[0].sampling.seed == 0


def test_seeds_at_the_edge_wrap_and_stay_apart(model):
    seeds = [r.sampling.seed for r in make(model, sampling=SamplingParams(seed=2**63 - 1), n=2)]
    assert seeds == [2**63 - 1, 0]


def test_missing_seed_is_drawn_anew_each_time(model):
    drawn = {make(model)[0].sampling.seed for _ in range(8)}
    assert len(drawn) == 8
    assert all(0 <= seed < 2**63 for seed in drawn)


def test_stop_ids_are_the_models_and_the_requests(model):
    asked = SamplingParams(stop_token_ids=(9, 1))
    assert make(model, sampling=asked)[0].stop_ids == (1, 9)
    ignoring = msgspec.structs.replace(asked, ignore_eos=True, stop_token_ids=(9,))
    assert make(model, sampling=ignoring)[0].stop_ids == (9,)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [([], "empty"), ([2, 320], "token id 320"), ([-1], "token id -1")],
)
def test_prompts_that_are_no_prompts_are_refused(model, tokens, message):
    with pytest.raises(RequestError, match=message) as caught:
        make(model, tokens)
    assert caught.value.param == "prompt"


def test_too_long_prompt_gives_both_lengths(model):
    with pytest.raises(ContextLengthError, match=r"100 tokens.*the prompt has 100\n") as caught:
        make(model, [2] * 100, param="messages")
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


def test_too_long_completion_gives_all_lengths(model):
    message = r"100 tokens.*the prompt has 90, and max_tokens asks for 20 more \(110 in all\)"
    with pytest.raises(ContextLengthError, match=message):
        make(model, [2] * 90, sampling=SamplingParams(max_tokens=20))


def test_context_can_be_filled_to_the_last_token(model):
    request = make(model, [2] * 90, sampling=SamplingParams(max_tokens=10))[0]
    assert request.sampling.max_tokens == 10


def test_default_length_gives_way_to_the_context(model):
    assert make(model, [2] * 90, default_max_tokens=16)[0].sampling.max_tokens == 10
    assert make(model, [2] * 10, default_max_tokens=16)[0].sampling.max_tokens == 16
    assert make(model, [2] * 10)[0].sampling.max_tokens is None


def test_default_length_gives_way_to_min_tokens(model):
    request = make(model, sampling=SamplingParams(min_tokens=20), default_max_tokens=16)[0]
    assert request.sampling.max_tokens == 20


def test_sequence_that_no_cache_can_hold_is_refused_early(model):
    info = msgspec.structs.replace(INFO, num_blocks=2)
    with pytest.raises(RequestError, match=r"KV cache for .* holds 32"):
        make(model, [2] * 40, info)


def test_salt_and_adapter_reach_the_engine(model):
    adapted = adapted_model(model, "a", LoraInfo(content="abc", location="path"), created=1)
    request = make(adapted, cache_salt="tenant")[0]
    assert (request.cache_salt, request.lora) == ("tenant", "abc")
