from __future__ import annotations

import pytest

from ferrule.errors import ConfigError
from ferrule.frontend.defaults import default_max_tokens, default_sampling, eos_ids, unused_keys
from ferrule.plan import SamplingParams


def test_empty_file_leaves_the_api_defaults():
    assert default_sampling({}) == SamplingParams()


def test_every_sampling_key_is_taken():
    sampling = default_sampling(
        {
            "do_sample": True,
            "temperature": 0.6,
            "top_p": 0.9,
            "top_k": 40,
            "min_p": 0.05,
            "repetition_penalty": 1.1,
        }
    )
    assert sampling == SamplingParams(
        temperature=0.6, top_p=0.9, top_k=40, min_p=0.05, repetition_penalty=1.1
    )


def test_explicit_do_sample_false_is_greedy():
    assert default_sampling({"do_sample": False, "temperature": 0.7}).temperature == 0


def test_absent_do_sample_keeps_the_temperature():
    assert default_sampling({"temperature": 0.7}).temperature == 0.7


@pytest.mark.parametrize("top_k", [0, -1])
def test_both_spellings_switch_top_k_off(top_k):
    assert default_sampling({"top_k": top_k}).top_k == 0


def test_null_is_as_good_as_absent():
    assert default_sampling({"temperature": None, "top_p": None}) == SamplingParams()


@pytest.mark.parametrize(
    ("key", "value"), [("temperature", "0.6"), ("top_p", True), ("top_p", 1.5), ("min_p", -1)]
)
def test_impossible_value_names_file_and_key(key, value):
    with pytest.raises(ConfigError, match=rf"generation_config\.json: .*{key}"):
        default_sampling({key: value})


def test_max_new_tokens_is_the_default_length():
    assert default_max_tokens({"max_new_tokens": 2048}) == 2048
    assert default_max_tokens({}) is None


@pytest.mark.parametrize("value", [0, "many", True])
def test_impossible_max_new_tokens_is_refused(value):
    with pytest.raises(ConfigError, match="max_new_tokens"):
        default_max_tokens({"max_new_tokens": value})


def test_every_listed_eos_stops():
    found = eos_ids({"eos_token_id": [128001, 128009]}, {"eos_token_id": 128001}, 128008)
    assert found == (128001, 128008, 128009)


def test_eos_may_be_missing_everywhere():
    assert eos_ids({}, {"eos_token_id": None}, None) == ()


@pytest.mark.parametrize("value", ["</s>", [2, "x"], -1, True, 2.0])
def test_eos_that_is_no_token_id_is_refused(value):
    with pytest.raises(ConfigError, match=r"config\.json: eos_token_id"):
        eos_ids({}, {"eos_token_id": value}, None)


def test_keys_that_ask_for_more_are_named():
    config = {"num_beams": 4, "no_repeat_ngram_size": 0, "bad_words_ids": [[5]], "top_p": 0.9}
    assert set(unused_keys(config)) == {"num_beams", "bad_words_ids"}
