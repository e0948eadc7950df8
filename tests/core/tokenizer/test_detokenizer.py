from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

TEXTS = [
    "plain words, and more",
    "family 👩‍👩‍👧‍👦 flag 🇨🇭 skin 👍🏽!",
    "漢字かな交じり文、한국어",
    "e\u0301 combining a\u0308\u0323, naïve",
    "“curly” ‘quotes’ — dash…",
    "\U00010348 𝒳 \u200d\u200b\ufeff end",
    "   spaces\n\n\ttabs  \r\n",
    "a literal \ufffd character",
]
KINDS = ["llama-bpe", "llama-spm", "qwen2"]


def stream(tokenizer, tokens, prompt=(), **options):
    detokenizer = tokenizer.detokenizer(prompt, **options)
    return [*map(detokenizer.push, tokens), detokenizer.flush()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_pushes_of_a_text_are_the_text(vocab_tokenizer, kind, text):
    tokenizer = vocab_tokenizer(kind)
    pieces = stream(tokenizer, tokenizer.encode(text, add_special_tokens=False))
    assert "".join(pieces) == (normalize("NFC", text) if kind == "qwen2" else text)


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(), data=st.data())
@settings(deadline=None, max_examples=150)
def test_text_after_a_prompt_is_what_was_missing(vocab_tokenizer, kind, text, data):
    tokenizer = vocab_tokenizer(kind)
    tokens = tokenizer.encode(text, add_special_tokens=False)
    cut = data.draw(st.integers(0, len(tokens)))
    # The text is whole, so what is ignored is the beginning of a character at the cut.
    before = b"".join(map(tokenizer.token_bytes, tokens[:cut])).decode(errors="ignore")
    if kind == "llama-spm":
        before = before.removeprefix(" ")
    after = "".join(stream(tokenizer, tokens[cut:], tokens[:cut]))
    assert before + after == tokenizer.decode(tokens)


@pytest.mark.parametrize("kind", KINDS)
@given(seeds=st.lists(st.integers(0, 2**20), max_size=40), skip=st.booleans())
@settings(deadline=None, max_examples=150)
def test_pushes_of_any_tokens_are_their_decoded_text(vocab_tokenizer, kind, seeds, skip):
    tokenizer = vocab_tokenizer(kind)
    # Mostly small ids, which are single bytes in all three, so that UTF-8 breaks in every way.
    tokens = [s % tokenizer.vocab_size if s % 3 == 0 else s % 270 for s in seeds]
    pieces = stream(tokenizer, tokens, skip_special_tokens=skip)
    assert "".join(pieces) == tokenizer.decode(tokens, skip_special_tokens=skip)


@pytest.mark.parametrize("kind", KINDS)
@given(
    text=st.text(alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="\ufffd"))
)
@settings(deadline=None, max_examples=100)
def test_valid_text_never_shows_a_replacement_character(vocab_tokenizer, kind, text):
    tokenizer = vocab_tokenizer(kind)
    pieces = stream(tokenizer, tokenizer.encode(text, add_special_tokens=False))
    assert not any("\ufffd" in piece for piece in pieces)


def test_unfinished_character_waits_and_only_the_flush_replaces_it(vocab_tokenizer):
    tokenizer = vocab_tokenizer("llama-spm")
    first, second = tokenizer.encode("\N{EURO SIGN}")[-1:], [3 + 0xF0, 3 + 0x9F]
    assert tokenizer.decode(first) == "\N{EURO SIGN}"
    assert stream(tokenizer, second) == ["", "", "\ufffd"]


def test_broken_character_is_replaced_as_soon_as_it_is_certain(vocab_tokenizer):
    tokenizer = vocab_tokenizer("llama-spm")
    broken = [3 + 0xE4, 3 + 0x41]
    assert stream(tokenizer, broken) == ["", "\ufffdA", ""]


def test_first_word_after_a_prompt_keeps_its_space(vocab_tokenizer):
    tokenizer = vocab_tokenizer("llama-spm")
    prompt, answer = tokenizer.encode("Say:"), tokenizer.encode("Hi", add_special_tokens=False)
    assert "".join(stream(tokenizer, answer, prompt)) == " Hi"
    assert "".join(stream(tokenizer, answer)) == "Hi"


def test_first_word_after_an_invisible_prompt_has_no_space(vocab_tokenizer):
    tokenizer = vocab_tokenizer("llama-spm")
    answer = tokenizer.encode("Hi", add_special_tokens=False)
    bos = [tokenizer.bos_token_id]
    assert "".join(stream(tokenizer, answer, bos)) == "Hi"
    assert "".join(stream(tokenizer, answer, bos, skip_special_tokens=False)) == " Hi"


def test_character_begun_in_the_prompt_is_completed(vocab_tokenizer):
    tokenizer = vocab_tokenizer("llama-spm")
    euro = [3 + byte for byte in "€".encode()]
    assert stream(tokenizer, euro[2:], [*tokenizer.encode("price "), *euro[:2]]) == ["€", ""]


def test_special_tokens_are_shown_only_when_asked_for(vocab_tokenizer):
    tokenizer = vocab_tokenizer("llama-bpe")
    tokens = tokenizer.encode("a<|eot_id|>b", add_special_tokens=False)
    assert "".join(stream(tokenizer, tokens)) == "ab"
    assert "".join(stream(tokenizer, tokens, skip_special_tokens=False)) == "a<|eot_id|>b"


@pytest.mark.parametrize("kind", KINDS)
def test_padding_id_beyond_the_vocabulary_is_silent(vocab_tokenizer, kind):
    tokenizer = vocab_tokenizer(kind)
    beyond = tokenizer.vocab_size + 100
    tokens = [*tokenizer.encode("ab", add_special_tokens=False), beyond]
    assert "".join(stream(tokenizer, tokens)) == tokenizer.decode(tokens) == "ab"
