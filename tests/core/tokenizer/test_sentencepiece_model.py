import pytest
import sentencepiece

from ferrule.errors import TokenizerError
from ferrule.tokenizer.sentencepiece_model import SentencePieceModel
from ferrule.tokenizer.spm import PieceKind


@pytest.fixture
def written(train_sentencepiece, tmp_path):
    def write(**options):
        file = tmp_path / "tokenizer.model"
        file.write_bytes(train_sentencepiece(**options))
        return file

    return write


def test_pieces_are_those_that_sentencepiece_reads(written):
    file = written(user_defined_symbols=["<tag>"], control_symbols=["<ctl>"])
    model = SentencePieceModel.read(file)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(file))
    for token in range(reference.get_piece_size()):
        piece = model.pieces[token]
        assert piece.text == reference.id_to_piece(token)
        assert piece.score == reference.get_score(token)
        assert (piece.kind == PieceKind.CONTROL) == reference.is_control(token)
        assert (piece.kind == PieceKind.BYTE) == reference.is_byte(token)
        assert (piece.kind == PieceKind.UNKNOWN) == reference.is_unknown(token)
    assert len(model.pieces) == reference.get_piece_size()
    kinds = {piece.text: piece.kind for piece in model.pieces}
    assert (kinds["<tag>"], kinds["<ctl>"]) == (PieceKind.USER_DEFINED, PieceKind.CONTROL)


def test_options_of_training_are_read(written):
    model = SentencePieceModel.read(written())
    assert (model.kind, model.normalization, model.has_rules) == ("bpe", "identity", False)
    assert (model.adds_space, model.removes_spaces, model.marks_word_ends) == (True, False, False)
    other = SentencePieceModel.read(
        written(
            model_type="unigram",
            vocab_size=300,
            normalization_rule_name="nfkc",
            add_dummy_prefix=False,
            remove_extra_whitespaces=True,
            treat_whitespace_as_suffix=True,
        )
    )
    assert (other.kind, other.normalization, other.has_rules) == ("unigram", "nfkc", True)
    assert (other.adds_space, other.removes_spaces, other.marks_word_ends) == (False, True, True)


def test_special_tokens_are_the_pieces_of_their_ids(written):
    file = written(bos_id=2, eos_id=1, bos_piece="<BEGIN>", eos_piece="<END>")
    special = SentencePieceModel.read(file).special_tokens
    assert special == {"unk_token": "<unk>", "bos_token": "<BEGIN>", "eos_token": "<END>"}
    assert "bos_token" not in SentencePieceModel.read(written(bos_id=-1)).special_tokens


def test_file_cut_within_a_piece_is_refused(written):
    file = written()
    whole = file.read_bytes()
    ends = _ends_of_fields(whole)
    for length in range(1, 200):
        file.write_bytes(whole[:length])
        if length in ends:
            assert len(SentencePieceModel.read(file).pieces) == ends.index(length) + 1
        else:
            with pytest.raises(TokenizerError, match="is not a SentencePiece model"):
                SentencePieceModel.read(file)


def _ends_of_fields(data):
    """Where the first pieces end: each is a tag, a length below 128, and as many bytes."""
    ends, at = [], 0
    while at < 200:
        at += 2 + data[at + 1]
        ends.append(at)
    return ends


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x0a",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0b\x00",
        b"\x0a\x02\x18\x63",
        b"\x0a\x04\x0a\x02\xff\xfe",
        b"IQ== 0\nIg== 1\n",
    ],
)
def test_other_files_are_refused(tmp_path, data):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(data)
    with pytest.raises(TokenizerError, match=r"tokenizer\.model is not a SentencePiece model"):
        SentencePieceModel.read(file)
