import pytest
import tokenizers
from tokenizers import processors

from ferrule.errors import TokenizerError
from ferrule.tokenizer.huggingface import from_directory_files


def test_pre_tokenizer_of_the_file_is_kept_whatever_class_the_config_names(
    write_directory, byte_level_backend
):
    byte_level_backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            byte_level_backend.pre_tokenizer,
        ]
    )
    files = write_directory(tokenizer_config={"tokenizer_class": "Qwen2Tokenizer"})
    tokenizer = from_directory_files(files)
    expected = byte_level_backend.encode("12 345hello", add_special_tokens=False).ids
    assert tokenizer.encode("12 345hello", add_special_tokens=False) == expected


def test_post_processor_says_whether_bos_is_added(write_directory, byte_level_backend):
    bos = {"bos_token": "<s>"}
    assert from_directory_files(write_directory(tokenizer_config=bos)).encode("hello")[0] == 0
    byte_level_backend.post_processor = processors.ByteLevel()
    assert not from_directory_files(write_directory(tokenizer_config=bos)).adds_bos


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("processor_adds_bos", [True, False])
def test_add_bos_token_of_the_config_overrules_the_post_processor(
    write_directory, byte_level_backend, adds_bos, processor_adds_bos
):
    if not processor_adds_bos:
        byte_level_backend.post_processor = processors.ByteLevel()
    config = {"bos_token": "<s>", "add_bos_token": adds_bos}
    tokenizer = from_directory_files(write_directory(tokenizer_config=config))
    assert tokenizer.adds_bos is adds_bos
    assert (tokenizer.encode("hello")[0] == 0) is adds_bos


def test_other_tokens_of_the_post_processor_stay_in_front(write_directory, byte_level_backend):
    byte_level_backend.post_processor = processors.TemplateProcessing(
        single="</s> <s> $A", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer = from_directory_files(write_directory())
    hello = tokenizer.encode("hello", add_special_tokens=False)
    assert tokenizer.encode("hello") == [1, 0, *hello]


def test_directory_with_tokenizer_json_alone_has_no_named_tokens(write_directory):
    tokenizer = from_directory_files(write_directory())
    assert tokenizer.special_tokens == {}
    assert tokenizer.encode("hello")[0] == 0  # the post-processor's, although it has no name


def test_truncation_of_training_does_not_cut_prompts(write_directory, byte_level_backend):
    byte_level_backend.enable_truncation(max_length=3)
    byte_level_backend.enable_padding(length=9)
    tokenizer = from_directory_files(write_directory())
    assert len(tokenizer.encode("a b c d e f", add_special_tokens=False)) == 11


def test_broken_tokenizer_json_is_named(write_directory):
    files = write_directory()
    files["tokenizer.json"].write_text('{"version": "1.0", "model": {"type": "XYZ"}}')
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is not a tokenizer"):
        from_directory_files(files)


@pytest.mark.realmodel
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_smollm2_gives_the_reference_tokens_and_texts(smollm2, golden, name):
    tokenizer = from_directory_files({file.name: file for file in (smollm2 / name).iterdir()})
    assert not tokenizer.adds_bos
    for prompt in golden(name):
        text = prompt.get("text", prompt.get("rendered"))
        assert tokenizer.encode(text, add_special_tokens=False) == prompt["prompt_ids"]
        greedy = prompt["greedy_ids"]
        assert tokenizer.decode(greedy, skip_special_tokens=False) == prompt["greedy_text"]
        detokenizer = tokenizer.detokenizer(prompt["prompt_ids"], skip_special_tokens=False)
        pieces = [*map(detokenizer.push, greedy), detokenizer.flush()]
        assert "".join(pieces) == prompt["greedy_text"]
