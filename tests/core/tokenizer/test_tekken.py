import base64
import json
import random
from itertools import pairwise

import pytest
import regex

from ferrule.errors import TokenizerError
from ferrule.tokenizer.tekken import from_tekken

PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = [bytes([byte]) for byte in range(256)]
WORDS += [b"ab", b"ba", b" a", b"aba", b"\xc3\xa9", b" ab", b"abab", b"1a", b"  ", b" \xc3\xa9"]
NUM_SPECIAL = 6


def content(**changed):
    return {
        "config": {
            "pattern": PATTERN,
            "num_vocab_tokens": len(WORDS),
            "default_vocab_size": len(WORDS) + NUM_SPECIAL,
            "default_num_special_tokens": NUM_SPECIAL,
            "version": "v3",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(word).decode(), "token_str": None}
            for rank, word in enumerate(WORDS)
        ],
        **changed,
    }


@pytest.fixture
def write(tmp_path):
    def write_file(value):
        file = tmp_path / "tekken.json"
        file.write_text(json.dumps(value))
        return file

    return write_file


def tiktoken_words(text):
    """Byte-pair encoding as tiktoken's documentation defines it, by looking at every pair."""
    ranks = {word: rank for rank, word in enumerate(WORDS)}
    for match in regex.finditer(PATTERN, text):
        parts = [bytes([byte]) for byte in match[0].encode()]
        if match[0].encode() in ranks:
            parts = [match[0].encode()]
        while True:
            pairs = [(ranks.get(a + b), n) for n, (a, b) in enumerate(pairwise(parts))]
            best = min((pair for pair in pairs if pair[0] is not None), default=None)
            if best is None:
                break
            at = best[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        yield from (ranks[part] for part in parts)


def test_ids_are_tiktokens_behind_the_special_ones(write):
    tokenizer = from_tekken(write(content()))
    rng = random.Random(0)
    for _ in range(2000):
        text = "".join(rng.choices("ab é1\n日", k=rng.randrange(25)))
        expected = [NUM_SPECIAL + rank for rank in tiktoken_words(text)]
        assert tokenizer.encode(text, add_special_tokens=False) == expected, repr(text)
        assert tokenizer.decode(expected) == text


def test_old_files_have_the_special_tokens_of_old_models(write):
    tokenizer = from_tekken(write(content()))
    assert tokenizer.encode("[INST]a") == [1, 3, NUM_SPECIAL + ord("a")]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.adds_bos) == (1, 2, True)


def test_new_files_name_their_special_tokens_and_the_rest_is_filled_up(write):
    special = [
        {"rank": rank, "token_str": text, "is_control": True}
        for rank, text in enumerate(["<unk>", "<s>", "</s>", "[THINK]"])
    ]
    tokenizer = from_tekken(write(content(special_tokens=special)))
    assert tokenizer.encode("[THINK]<SPECIAL_5>") == [1, 3, 5]
    assert tokenizer.special_tokens == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }


def test_only_as_many_tokens_as_the_model_has_are_taken(write):
    value = content()
    value["config"]["default_vocab_size"] -= 5
    assert from_tekken(write(value)).vocab_size == len(WORDS) + NUM_SPECIAL - 5


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"config": {}, "vocab": []},
        content(vocab=[]),
        content(vocab=[{"rank": 0}]),
        content(config={"pattern": "(", "default_num_special_tokens": 0, "default_vocab_size": 0}),
    ],
)
def test_broken_file_is_named(write, value):
    with pytest.raises(TokenizerError, match=r"tekken\.json is not a tekken vocabulary"):
        from_tekken(write(value))
