import pytest

from ferrule.errors import TokenizerError
from ferrule.tokenizer.spm import Piece, PieceKind, build_spm


def pieces(*normal, extra=()):
    texts = ["▁", *sorted({c for text in normal for c in text} - {"▁"}), *normal]
    scored = [Piece(text=t, score=-float(n), kind=PieceKind.NORMAL) for n, t in enumerate(texts)]
    return [Piece(text="<unk>", score=0, kind=PieceKind.UNKNOWN), *scored, *extra]


def words(backend, text):
    return backend.encode(text, add_special_tokens=False).tokens


def test_better_piece_is_merged_first():
    assert words(build_spm(pieces("bc", "ab"), space="never"), "abc") == ["a", "bc"]
    assert words(build_spm(pieces("ab", "bc"), space="never"), "abc") == ["ab", "c"]


def test_leftmost_of_equal_pairs_is_merged_first():
    assert words(build_spm(pieces("aa"), space="never"), "aaa") == ["aa", "a"]


def test_space_goes_before_every_text_or_the_first_or_none():
    end = Piece(text="</s>", score=0, kind=PieceKind.CONTROL)
    spaced = {
        space: words(build_spm(pieces("ab", extra=[end]), space=space), "ab</s>ab")
        for space in ("always", "first", "never")
    }
    assert spaced["always"] == ["▁", "ab", "</s>", "▁", "ab"]
    assert spaced["first"] == ["▁", "ab", "</s>", "ab"]
    assert spaced["never"] == ["ab", "</s>", "ab"]


def test_user_defined_piece_is_found_as_written():
    tag = Piece(text="[tag]", score=0, kind=PieceKind.USER_DEFINED)
    backend = build_spm(pieces("ab", extra=[tag]), space="never")
    assert words(backend, "ab[tag]ab") == ["ab", "[tag]", "ab"]
    assert not backend.get_added_tokens_decoder()[backend.token_to_id("[tag]")].special


def test_character_of_no_piece_is_unknown_without_byte_pieces():
    assert words(build_spm(pieces("ab"), space="never"), "abZZ") == ["ab", "<unk>"]


def test_piece_that_is_there_twice_is_refused():
    with pytest.raises(TokenizerError, match="1 pieces twice"):
        build_spm(pieces("ab", "ab"), space="never")
