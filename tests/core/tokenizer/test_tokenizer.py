import pytest
import tokenizers
from tokenizers import models

from ferrule.errors import RequestError
from ferrule.tokenizer.tokenizer import Tokenizer


def build(backend, prefix=(0,)):
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return Tokenizer(backend, special_tokens=special, prefix=prefix)


def test_bos_goes_before_a_text(byte_level_backend):
    tokenizer = build(byte_level_backend)
    assert tokenizer.adds_bos
    assert tokenizer.encode("hello")[0] == tokenizer.bos_token_id == 0
    assert tokenizer.encode("") == [0]


def test_bos_is_left_out_on_request(byte_level_backend):
    tokenizer = build(byte_level_backend)
    assert tokenizer.encode("hello", add_special_tokens=False) == tokenizer.encode("hello")[1:]


def test_bos_that_the_text_has_already_is_not_doubled(byte_level_backend):
    tokenizer = build(byte_level_backend)
    assert tokenizer.encode("<s>hello") == tokenizer.encode("hello")


def test_eos_is_never_put_behind_a_prompt(byte_level_backend):
    tokenizer = build(byte_level_backend)
    assert tokenizer.eos_token_id == 1
    assert 1 not in tokenizer.encode("hello")


def test_special_tokens_within_a_text_are_recognised(byte_level_backend):
    tokenizer = build(byte_level_backend, prefix=())
    hello = tokenizer.encode("hello")
    assert tokenizer.encode("hello</s>hello") == [*hello, 1, *hello]
    assert tokenizer.decode([*hello, 1]) == "hello"
    assert tokenizer.decode([*hello, 1], skip_special_tokens=False) == "hello</s>"


def test_truncation_and_padding_left_from_training_are_off(byte_level_backend):
    byte_level_backend.enable_truncation(max_length=2)
    byte_level_backend.enable_padding(length=64)
    assert len(build(byte_level_backend, prefix=()).encode("x y z")) == 5


def test_ids_outside_the_vocabulary_are_nothing(byte_level_backend):
    tokenizer = build(byte_level_backend)
    unknown = [tokenizer.vocab_size, 10**6, 2**35, -1]
    assert tokenizer.decode([*unknown, *tokenizer.encode("hello"), *unknown]) == "hello"
    assert [tokenizer.token_bytes(token) for token in unknown] == [b""] * 4
    assert tokenizer.token_text(unknown[0]) == ""


def test_vocabulary_reaches_to_the_highest_id():
    backend = tokenizers.Tokenizer(models.WordLevel(vocab={"a": 0, "b": 70}, unk_token="a"))
    assert Tokenizer(backend, special_tokens={}).vocab_size == 71


def test_tokenizer_without_special_tokens_has_none(byte_level_backend):
    tokenizer = Tokenizer(byte_level_backend, special_tokens={})
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.adds_bos) == (
        None,
        None,
        False,
    )


def test_half_a_surrogate_pair_is_the_requests_mistake(byte_level_backend):
    with pytest.raises(RequestError, match="half of a surrogate pair at position 2"):
        build(byte_level_backend).encode("ab\ud83d")


@pytest.mark.parametrize("kind", ["llama-bpe", "llama-spm", "qwen2"])
def test_token_bytes_of_a_text_are_its_bytes(vocab_tokenizer, vectors, kind):
    tokenizer = vocab_tokenizer(kind)
    for text, tokens in vectors(kind):
        data = b"".join(map(tokenizer.token_bytes, tokens))
        assert data.removeprefix(b" " if kind == "llama-spm" else b"") == text.encode()


def test_token_bytes_may_be_part_of_a_character(vocab_tokenizer):
    tokenizer = vocab_tokenizer("qwen2")
    tokens = tokenizer.encode("\U00010348")
    assert len(tokens) > 1
    assert tokenizer.token_text(tokens[0]).endswith("\ufffd")
    assert b"".join(map(tokenizer.token_bytes, tokens)) == "\U00010348".encode()


def test_special_token_is_its_own_text(vocab_tokenizer):
    tokenizer = vocab_tokenizer("llama-bpe")
    assert tokenizer.token_bytes(128009) == b"<|eot_id|>"
    assert tokenizer.token_text(128009) == "<|eot_id|>"


@pytest.mark.parametrize("kind", ["llama-bpe", "llama-spm", "qwen2"])
def test_decoding_agrees_with_the_engines_own_decoder(vocab_tokenizer, vectors, kind):
    tokenizer = vocab_tokenizer(kind)
    for _, tokens in vectors(kind):
        assert tokenizer.decode(tokens) == tokenizer._backend.decode(tokens)


def test_other_values_than_text_are_the_callers_own_mistake(byte_level_backend):
    with pytest.raises(TypeError):
        build(byte_level_backend).encode(b"")
