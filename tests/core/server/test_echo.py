from __future__ import annotations

import pytest

from ferrule.server.echo import echo_of


@pytest.fixture
def tokenizer(model):
    return model.tokenizer


def test_text_comes_back_unchanged_and_its_bos_is_silent(tokenizer):
    echo = echo_of(tokenizer, "Hello é!", tokenizer.encode("Hello é!"))
    assert echo.text == "Hello é!"
    assert [tokenizer.token_bytes(token) for token in echo.tokens][:3] == [b"<s>", b"Hello", b" "]
    assert echo.offsets == [0, 0, 5, 6, 6, 7]


def test_bos_that_the_client_wrote_is_part_of_the_text(tokenizer):
    echo = echo_of(tokenizer, "<s>Hello", tokenizer.encode("<s>Hello"))
    assert (echo.text, echo.offsets) == ("<s>Hello", [0, 3])


def test_ids_come_back_as_text_with_their_special_tokens(tokenizer):
    echo = echo_of(tokenizer, [0, 261, 1], [0, 261, 1])
    assert (echo.text, echo.offsets) == ("<s>Hello</s>", [0, 3, 8])


def test_unfinished_character_does_not_push_offsets_beyond_the_text(tokenizer):
    echo = echo_of(tokenizer, [261, 129], [261, 129])
    assert echo.text == "Hello\N{REPLACEMENT CHARACTER}"
    assert echo.offsets == [0, 5]


def test_without_a_tokenizer_there_is_no_text():
    echo = echo_of(None, [5, 6], [5, 6])
    assert (echo.text, echo.tokens, echo.offsets) == ("", [5, 6], [0, 0])
