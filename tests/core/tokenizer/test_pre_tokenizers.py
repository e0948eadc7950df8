import pytest

from ferrule.tokenizer.pre_tokenizers import pre_tokenizers_by_name
from ferrule.tokenizer.spelling import byte_stand_ins

# What each family's own tokenizer.json does to this text.
TEXT = "I'LL pay 12345 émigrés' fees:\n\n  now!日本語"
FAMILIES = {
    "llama-bpe": "I|'LL| pay| |123|45| émigrés|'| fees|:\n\n| | now|!日本語",
    "qwen2": "I|'LL| pay| |1|2|3|4|5| émigrés|'| fees|:\n\n| | now|!日本語",
    "smollm": "I|'|LL| pay| |1|2|3|4|5| émigrés|'| fees|:|\n\n | now|!|日本語",
    "gpt-2": "I|'|LL| pay| 12345| émigrés|'| fees|:|\n\n | now|!|日本語",
    "tekken": "I|'LL| pay| |1|2|3|4|5| émigrés|'| fees|:\n\n| | now|!日本語",
    "gpt-4o": "I'LL| pay| |123|45| émigrés|'| fees|:\n\n| | now|!日本語",
    "deepseek-coder": "I|'|LL| pay| |1|2|3|4|5| émigrés|'| fees|:|\n|\n| | now|!|日本語",
    "deepseek-v3": "I|'LL| pay| |123|45| émigrés|'| fees|:\n\n| | now|!|日本語",
}


def cut(name, text):
    byte = {character: byte for byte, character in byte_stand_ins().items()}
    pre = pre_tokenizers_by_name()[name]
    return [
        bytes(map(byte.__getitem__, word)).decode()
        for word, _ in pre.build().pre_tokenize_str(text)
    ]


@pytest.mark.parametrize(("name", "words"), FAMILIES.items())
def test_family_cuts_text_in_its_own_way(name, words):
    assert cut(name, TEXT) == words.split("|")


@pytest.mark.parametrize("name", sorted(pre_tokenizers_by_name()))
def test_no_character_is_lost(name):
    assert "".join(cut(name, TEXT)) == TEXT


def test_long_runs_are_cut_in_bounded_time():
    for name in pre_tokenizers_by_name():
        assert "".join(cut(name, " " * 20_000 + "x")) == " " * 20_000 + "x"


def test_deepseek_llm_knows_letters_one_by_one():
    # U+052F is in its list; U+0560, a letter since Unicode 11, is not.
    assert cut("deepseek-llm", "ж\u052fж") == ["ж\u052fж"]
    assert cut("deepseek-llm", "ж\u0560ж") == ["ж", "\u0560", "ж"]
