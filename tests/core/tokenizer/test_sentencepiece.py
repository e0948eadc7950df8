import random
from collections.abc import Iterator

import pytest
import sentencepiece

from ferrule.errors import TokenizerError
from ferrule.tokenizer.sentencepiece import from_sentencepiece
from ferrule.tokenizer.tokenizer_config import TokenizerConfig

NO_CONFIG = TokenizerConfig()
FRAGMENTS = [" ", "  ", "\n", "é", "e\u0301", "漢", "👩\u200d👧", "\x00", "Z", "aab", "\u00a0"]


@pytest.fixture(scope="module")
def llama_like(train_sentencepiece, tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "tokenizer.model"
    file.write_bytes(train_sentencepiece())
    return file


def texts(model: sentencepiece.SentencePieceProcessor, number: int) -> Iterator[str]:
    rng = random.Random(1)
    pieces = [model.id_to_piece(n).replace("▁", " ") for n in range(259, model.get_piece_size())]
    fragments = [*pieces, *FRAGMENTS]
    for _ in range(number):
        some = rng.sample(fragments, 3) if rng.random() < 0.5 else fragments
        yield "".join(rng.choices(some, k=rng.randrange(20)))


def test_ids_and_texts_are_sentencepieces_own(llama_like):
    reference = sentencepiece.SentencePieceProcessor(model_file=str(llama_like))
    tokenizer = from_sentencepiece(llama_like, NO_CONFIG)
    for text in texts(reference, 3000):
        tokens = reference.encode(text)
        assert tokenizer.encode(text, add_special_tokens=False) == tokens, repr(text)
        assert tokenizer.decode(tokens) == reference.decode(tokens), repr(text)


@pytest.mark.parametrize(
    "options", [{"add_dummy_prefix": False}, {"byte_fallback": False, "vocab_size": 200}]
)
def test_models_options_are_followed(train_sentencepiece, tmp_path, options):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(train_sentencepiece(**options))
    reference = sentencepiece.SentencePieceProcessor(model_file=str(file))
    tokenizer = from_sentencepiece(file, NO_CONFIG)
    for text in texts(reference, 500):
        tokens = reference.encode(text)
        assert tokenizer.encode(text, add_special_tokens=False) == tokens, repr(text)


def test_bos_is_added_and_special_tokens_are_the_models(llama_like):
    tokenizer = from_sentencepiece(llama_like, NO_CONFIG)
    assert tokenizer.special_tokens == {
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    assert tokenizer.encode("the cat")[0] == tokenizer.bos_token_id == 1
    assert tokenizer.encode("<s>the cat") == tokenizer.encode("the cat")


def test_config_may_forbid_bos(llama_like):
    assert not from_sentencepiece(llama_like, TokenizerConfig(add_bos_token=False)).adds_bos


def test_model_without_bos_adds_none(train_sentencepiece, tmp_path):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(train_sentencepiece(bos_id=-1))
    tokenizer = from_sentencepiece(file, NO_CONFIG)
    assert (tokenizer.bos_token_id, tokenizer.adds_bos) == (None, False)


def test_tokens_that_only_the_json_files_name_are_added(llama_like, write_directory):
    size = from_sentencepiece(llama_like, NO_CONFIG).vocab_size
    config = TokenizerConfig.from_files(
        write_directory(added_tokens={"<pad>": size}, special_tokens_map={"pad_token": "<pad>"})
    )
    tokenizer = from_sentencepiece(llama_like, config)
    assert tokenizer.encode("<pad>")[-1] == size
    assert tokenizer.special_tokens["pad_token"] == "<pad>"


def test_new_behaviour_puts_no_space_behind_special_tokens(llama_like):
    old = from_sentencepiece(llama_like, NO_CONFIG)
    new = from_sentencepiece(llama_like, TokenizerConfig(is_legacy=False))
    assert new.encode("the cat") == old.encode("the cat")
    assert new.encode("the</s>cat") != old.encode("the</s>cat")
    assert new.decode(new.encode("the</s>cat")) == "thecat"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "unigram", "vocab_size": 300}, "kind 'unigram', not 'bpe'"),
        ({"normalization_rule_name": "nmt_nfkc"}, "by the rules 'nmt_nfkc' first"),
        ({"remove_extra_whitespaces": True}, "removes double spaces"),
        ({"treat_whitespace_as_suffix": True}, "behind words"),
    ],
)
def test_model_that_cannot_be_followed_exactly_is_refused(
    train_sentencepiece, tmp_path, options, message
):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(train_sentencepiece(**options))
    with pytest.raises(TokenizerError, match=message) as caught:
        from_sentencepiece(file, NO_CONFIG)
    assert "save_pretrained" in caught.value.hint
