import gguf
import pytest

from ferrule.errors import TokenizerError
from ferrule.tokenizer.gguf import from_gguf_metadata
from ferrule.tokenizer.spelling import byte_stand_ins

BYTES = list(byte_stand_ins().values())
SPM_TOKENS = ["<unk>", "<s>", "</s>", "<0x41>", "▁", "h", "i", "hi", "▁hi", "<usr>"]
SPM = {
    "model": "llama",
    "tokens": SPM_TOKENS,
    "scores": [0, 0, 0, 0, -5, -6, -7, -1, -2, 0],
    "token_type": [2, 3, 3, 6, 1, 1, 1, 1, 1, 4],
}
BPE = {
    "model": "gpt2",
    "pre": "gpt-2",
    "tokens": [*BYTES, "hi", "<|end|>"],
    "token_type": [*[1] * 257, 3],
    "merges": ["h i"],
}


def metadata(base, **changed):
    values = {**base, **changed}
    return {f"tokenizer.ggml.{k}": v for k, v in values.items() if v is not None}


@pytest.mark.parametrize("kind", ["llama-bpe", "llama-spm", "qwen2"])
def test_all_of_llama_cpps_vectors_are_met(vocab_tokenizer, vectors, kind):
    tokenizer = vocab_tokenizer(kind)
    wrong = {
        text: (tokenizer.encode(text, add_special_tokens=False), tokens)
        for text, tokens in vectors(kind)
        if tokenizer.encode(text, add_special_tokens=False) != tokens
    }
    assert len(vectors(kind)) == 46
    assert wrong == {}


@pytest.mark.parametrize("kind", ["llama-bpe", "llama-spm", "qwen2"])
def test_vectors_decode_to_their_texts(vocab_tokenizer, vectors, kind):
    tokenizer = vocab_tokenizer(kind)
    assert [tokenizer.decode(tokens) for _, tokens in vectors(kind)] == [
        text for text, _ in vectors(kind)
    ]


@pytest.mark.parametrize(
    ("kind", "bos", "eos", "adds_bos"),
    [
        ("llama-bpe", 128000, 128001, True),
        ("llama-spm", 1, 2, True),
        ("qwen2", 151643, 151643, False),
    ],
)
def test_bos_and_eos_are_those_of_the_file(vocab_tokenizer, kind, bos, eos, adds_bos):
    tokenizer = vocab_tokenizer(kind)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (bos, eos)
    assert tokenizer.adds_bos is adds_bos


def test_bos_written_in_a_prompt_is_not_doubled(vocab_tokenizer):
    tokenizer = vocab_tokenizer("llama-bpe")
    assert tokenizer.encode("<|begin_of_text|>Hi") == tokenizer.encode("Hi") == [128000, 13347]


def test_padding_of_the_vocabulary_is_not_part_of_it(vocab_tokenizer, vocab_metadata):
    tokenizer = vocab_tokenizer("qwen2")
    assert vocab_metadata("qwen2")["tokenizer.ggml.tokens"][-1].startswith("[PAD")
    assert tokenizer.vocab_size == 151646
    assert tokenizer.decode([151935]) == ""
    assert len(tokenizer.encode("[PAD151935]")) > 1


def test_decomposed_text_is_composed_for_qwen2_as_in_its_tokenizer_json(vocab_tokenizer):
    tokenizer = vocab_tokenizer("qwen2")
    assert tokenizer.encode("cafe\u0301") == tokenizer.encode("caf\u00e9")


@pytest.mark.parametrize(("said", "adds_bos"), [(None, True), (True, True), (False, False)])
def test_sentencepiece_vocabulary_adds_bos_unless_told(said, adds_bos):
    tokenizer = from_gguf_metadata(metadata(SPM, add_bos_token=said))
    assert tokenizer.adds_bos is adds_bos
    assert tokenizer.encode("hi") == ([1] if adds_bos else []) + [8]


@pytest.mark.parametrize(
    ("pre", "said", "adds_bos"),
    [
        ("gpt-2", None, False),
        ("gpt-2", True, True),
        ("llama-bpe", None, True),
        ("tekken", False, False),
    ],
)
def test_byte_level_vocabulary_adds_bos_as_its_family_does(pre, said, adds_bos):
    tokenizer = from_gguf_metadata(metadata(BPE, pre=pre, bos_token_id=257, add_bos_token=said))
    assert tokenizer.adds_bos is adds_bos


def test_no_bos_is_added_without_one():
    assert not from_gguf_metadata(metadata(BPE, add_bos_token=True)).adds_bos


@pytest.mark.parametrize(("adds_space", "tokens"), [(True, [8]), (False, [7])])
def test_space_before_a_text_follows_the_file(adds_space, tokens):
    built = metadata(SPM, add_space_prefix=adds_space, add_bos_token=False)
    tokenizer = from_gguf_metadata(built)
    assert tokenizer.encode("hi") == tokens
    assert tokenizer.decode([8]) == ("hi" if adds_space else " hi")


def test_text_after_a_special_token_begins_with_a_space_as_in_llama_cpp():
    tokenizer = from_gguf_metadata(metadata(SPM))
    assert tokenizer.encode("hi</s>hi<usr>hi") == [1, 8, 2, 8, 9, 8]
    assert tokenizer.decode([8, 2, 9]) == "hi<usr>"


def test_character_outside_the_vocabulary_becomes_its_bytes():
    assert from_gguf_metadata(metadata(SPM)).encode("hiA") == [1, 8, 3]


def test_special_tokens_have_the_names_that_templates_use():
    tokenizer = from_gguf_metadata(
        metadata(SPM, eos_token_id=9, padding_token_id=2, seperator_token_id=99)
    )
    assert tokenizer.special_tokens == {
        "bos_token": "<s>",
        "eos_token": "<usr>",
        "unk_token": "<unk>",
        "pad_token": "</s>",
    }
    assert tokenizer.eos_token_id == 9


def test_empty_token_is_skipped():
    tokenizer = from_gguf_metadata(metadata(BPE, tokens=[*BYTES, "hi", ""]))
    assert tokenizer.encode("hi") == [256]
    assert tokenizer.decode([256, 257]) == "hi"


@pytest.mark.parametrize(
    ("base", "changed", "message"),
    [
        (BPE, {"model": "bert"}, "kind 'bert'.*supported are 'gpt2'"),
        (BPE, {"model": None}, "kind None"),
        (
            BPE,
            {"pre": "qwen-2"},
            "says 'qwen-2'.*nearest known name is 'qwen2'.*Known are: .*smollm",
        ),
        (BPE, {"pre": None}, "does not say how text is cut into words"),
        (BPE, {"pre": "default"}, "does not say how text is cut into words"),
        (BPE, {"merges": None}, "no tokenizer.ggml.merges"),
        (BPE, {"merges": ["h"]}, "merge 'h' does not have two parts"),
        (BPE, {"merges": ["h xyz"]}, "vocabulary and merges disagree"),
        (BPE, {"tokens": None}, "no tokenizer.ggml.tokens"),
        (BPE, {"token_type": [1]}, "258 tokens, but 1 token types"),
        (SPM, {"scores": None}, "no tokenizer.ggml.scores"),
        (SPM, {"tokens": [*SPM_TOKENS[:-1], "hi"]}, "has 1 pieces twice"),
    ],
)
def test_broken_vocabulary_is_refused(base, changed, message):
    with pytest.raises(TokenizerError, match=message):
        from_gguf_metadata(metadata(base, **changed))


def test_token_kinds_are_those_of_the_format():
    from ferrule.tokenizer.spm import PieceKind

    assert {kind.name: kind.value for kind in PieceKind} == {
        kind.name: kind.value for kind in gguf.TokenType
    }


@pytest.mark.realmodel
def test_smollm2s_gguf_gives_the_tokens_of_its_tokenizer_json(smollm2, golden):
    from ferrule.checkpoint.open import open_checkpoint

    checkpoint = open_checkpoint(str(smollm2 / "smollm2-135m.gguf"))
    tokenizer = from_gguf_metadata(checkpoint.metadata)
    for prompt in golden("llama"):
        text = prompt.get("text", prompt.get("rendered"))
        assert tokenizer.encode(text) == prompt["prompt_ids"]
        assert (
            tokenizer.decode(prompt["greedy_ids"], skip_special_tokens=False)
            == (prompt["greedy_text"])
        )
