import logging

import pytest

from ferrule.errors import TokenizerError
from ferrule.tokenizer.huggingface import from_directory_files
from ferrule.tokenizer.tokenizer_config import TokenizerConfig, read_json


def described(content, **flags):
    return {"content": content, "lstrip": False, "normalized": False, **flags}


@pytest.mark.parametrize(
    "bos", ["<s>", described("<s>"), {"__type": "AddedToken", "content": "<s>"}]
)
def test_special_token_is_a_text_or_a_description(write_directory, bos):
    config = TokenizerConfig.from_files(write_directory(tokenizer_config={"bos_token": bos}))
    assert config.special_tokens == {"bos_token": "<s>"}


def test_missing_and_null_tokens_have_no_name(write_directory):
    files = write_directory(tokenizer_config={"bos_token": None, "add_bos_token": False})
    config = TokenizerConfig.from_files(files)
    assert config.special_tokens == {}
    assert config.add_bos_token is False


def test_no_files_say_nothing():
    assert TokenizerConfig.from_files({}) == TokenizerConfig()


@pytest.mark.parametrize("key", ["additional_special_tokens", "extra_special_tokens"])
def test_special_tokens_without_names_are_a_list(write_directory, key):
    files = write_directory(tokenizer_config={key: ["<a>", described("<b>")]})
    config = TokenizerConfig.from_files(files)
    assert config.extra_special_tokens == ("<a>", "<b>")


def test_extra_special_tokens_of_transformers_4_are_named(write_directory):
    files = write_directory(tokenizer_config={"extra_special_tokens": {"image_token": "<img>"}})
    config = TokenizerConfig.from_files(files)
    assert config.special_tokens == {"image_token": "<img>"}
    assert config.extra_special_tokens == ()


def test_special_tokens_map_goes_before_an_old_config_and_behind_a_new_one(write_directory):
    files = write_directory(
        tokenizer_config={"eos_token": "<old>"}, special_tokens_map={"eos_token": "</s>"}
    )
    assert TokenizerConfig.from_files(files).special_tokens == {"eos_token": "</s>"}
    files = write_directory(
        tokenizer_config={"eos_token": "<new>", "added_tokens_decoder": {}},
        special_tokens_map={"eos_token": "</s>", "pad_token": "<pad>"},
    )
    assert TokenizerConfig.from_files(files).special_tokens == {
        "eos_token": "<new>",
        "pad_token": "<pad>",
    }


def test_added_tokens_missing_from_tokenizer_json_are_added_in_order(write_directory):
    plain = from_directory_files(write_directory())
    first = plain.vocab_size
    files = write_directory(
        added_tokens={"<tool>": first + 1, "<think>": first},
        special_tokens_map={"additional_special_tokens": ["<tool>"]},
    )
    tokenizer = from_directory_files(files)
    assert tokenizer.encode("<think><tool>", add_special_tokens=False) == [first, first + 1]
    assert tokenizer.decode([first, first + 1]) == "<think>"


def test_added_tokens_of_the_config_are_added(write_directory):
    first = from_directory_files(write_directory()).vocab_size
    decoder = {str(first): described("<end>", special=True)}
    files = write_directory(
        tokenizer_config={"added_tokens_decoder": decoder, "eos_token": "<end>"}
    )
    tokenizer = from_directory_files(files)
    assert tokenizer.eos_token_id == first
    assert tokenizer.encode("x<end>", add_special_tokens=False)[-1] == first


@pytest.mark.parametrize("token", [3, 1000])
def test_added_token_with_another_id_than_the_vocabularys_is_refused(write_directory, token):
    files = write_directory(added_tokens={"<tool>": token})
    with pytest.raises(TokenizerError, match=rf"'<tool>' has id {token} in .* but \d+ by"):
        from_directory_files(files)


def test_special_token_that_is_an_ordinary_word_becomes_special(write_directory):
    files = write_directory(tokenizer_config={"eos_token": "hell"})
    tokenizer = from_directory_files(files)
    hell = tokenizer.eos_token_id
    assert hell in tokenizer.encode("hello")
    assert tokenizer.decode(tokenizer.encode("hello")) == "o"


def test_special_token_that_is_not_in_the_vocabulary_is_warned_of(write_directory, caplog):
    files = write_directory(tokenizer_config={"pad_token": "[PAD]"})
    with caplog.at_level(logging.WARNING):
        tokenizer = from_directory_files(files)
    assert "special token '[PAD]' is not in the vocabulary" in caplog.text
    assert tokenizer.special_tokens["pad_token"] == "[PAD]"


@pytest.mark.parametrize("key", ["12a", "-1"])
def test_broken_added_tokens_decoder_is_refused(write_directory, key):
    files = write_directory(tokenizer_config={"added_tokens_decoder": {key: described("<a>")}})
    with pytest.raises(TokenizerError, match=r"added_tokens_decoder\['" + key):
        TokenizerConfig.from_files(files)


def test_file_that_is_not_json_is_named_with_the_place(tmp_path):
    file = tmp_path / "tokenizer_config.json"
    file.write_text('{"a": 1,}')
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json is not JSON: .*column 9"):
        read_json(file)


def test_file_that_is_not_an_object_is_refused(tmp_path):
    file = tmp_path / "added_tokens.json"
    file.write_text("[1]")
    with pytest.raises(TokenizerError, match="not a JSON object, but a list"):
        read_json(file)


def test_file_that_is_not_utf8_is_refused(tmp_path):
    file = tmp_path / "added_tokens.json"
    file.write_bytes(b'{"\xff": 1}')
    with pytest.raises(TokenizerError, match="is not JSON"):
        read_json(file)
