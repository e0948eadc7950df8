import pytest
import tokenizers
from tokenizers import decoders, models

from ferrule.errors import TokenizerError
from ferrule.tokenizer.spelling import Spelling, byte_stand_ins


def spell(decoder, *tokens, added=()):
    vocab = {token: n for n, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab=vocab, unk_token=tokens[0]))
    if decoder is not None:
        backend.decoder = decoder
    backend.add_tokens(list(added))
    return Spelling(backend)


def spm_decoder(left):
    return decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", left, 0),
        ]
    )


def test_byte_stand_ins_are_those_of_the_byte_level_alphabet():
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    assert set(byte_stand_ins().values()) == set(alphabet)
    assert [byte_stand_ins()[b] for b in (0x20, 0x0A, 0x41, 0xE2)] == ["Ġ", "Ċ", "A", "â"]


def test_every_byte_is_spelled_back():
    spelling = spell(decoders.ByteLevel(), *byte_stand_ins().values())
    assert b"".join(map(spelling.bytes_of, range(256))) == bytes(range(256))


def test_byte_level_token_may_be_part_of_a_character():
    spelling = spell(decoders.ByteLevel(), "âĤ", "¬")
    assert (spelling.bytes_of(0), spelling.bytes_of(1)) == (b"\xe2\x82", b"\xac")


def test_byte_level_token_outside_the_alphabet_is_its_own_text():
    assert spell(decoders.ByteLevel(), "[PAD 1]", "日本").bytes_of(1) == "日本".encode()


def test_byte_fallback_token_is_one_byte():
    spelling = spell(spm_decoder(1), "<0x0A>", "<0xff>", "<0x0>", "▁the▁")
    spelled = [spelling.bytes_of(n) for n in range(4)]
    assert spelled == [b"\n", b"\xff", b"<0x0>", b" the "]


def test_added_token_is_its_own_text_whatever_the_decoder():
    spelling = spell(decoders.ByteLevel(), "a", added=["Ġé", "<0x41>"])
    assert spelling.bytes_of(1) == "Ġé".encode()
    assert spell(spm_decoder(1), "a", added=["<0x41>▁"]).bytes_of(1) == "<0x41>▁".encode()


@pytest.mark.parametrize("token", [-1, 2, 2**31, 2**40])
def test_unknown_id_has_no_bytes(token):
    assert spell(decoders.ByteLevel(), "a", "b").bytes_of(token) == b""


@pytest.mark.parametrize(
    ("decoder", "strips"),
    [
        (decoders.ByteLevel(), False),
        (spm_decoder(1), True),
        (spm_decoder(0), False),
        (decoders.Metaspace(), True),
        (decoders.Metaspace(prepend_scheme="never"), False),
        (None, True),
    ],
)
def test_first_space_belongs_to_the_text_unless_the_decoder_strips_it(decoder, strips):
    assert spell(decoder, "a").strips_space is strips


def test_metaspace_marks_are_spaces():
    assert spell(decoders.Metaspace(), "▁a▁b").bytes_of(0) == b" a b"


def test_tokens_without_a_decoder_are_words():
    assert spell(None, "hello", "you").bytes_of(1) == b" you"


def test_unsupported_decoder_is_refused_with_what_is_supported():
    with pytest.raises(TokenizerError, match=r"WordPiece.*supported are ByteLevel"):
        spell(decoders.WordPiece(), "a")
