import json

import pytest

from ferrule.errors import TokenizerError
from ferrule.tokenizer.load import load_chat_template, load_tokenizer

MESSAGES = [{"role": "user", "content": "hi"}]


def template_of(files=None, metadata=None, override=None):
    template = load_chat_template(files or {}, metadata or {}, None, override)
    return template and template.render(MESSAGES)


@pytest.fixture
def write(tmp_path):
    """``write(name=content)``: files by name, JSON unless the content is text or bytes."""

    def write_files(**contents):
        files = {}
        for key, content in contents.items():
            file = tmp_path / key.replace("__", ".")
            if isinstance(content, bytes):
                file.write_bytes(content)
            else:
                file.write_text(content if isinstance(content, str) else json.dumps(content))
            files[file.name] = file
        return files

    return write_files


def test_checkpoint_without_tokenizer_has_none(write):
    assert load_tokenizer({}, {}) is None
    assert load_tokenizer(write(config__json={}), {"tokenizer.ggml.model": "no_vocab"}) is None


def test_files_go_before_the_metadata_of_a_gguf(write_directory, vocab_metadata):
    files = write_directory()
    assert load_tokenizer(files, vocab_metadata("llama-spm")).vocab_size < 1000
    assert load_tokenizer({}, vocab_metadata("llama-spm")).vocab_size == 32000


def test_tokenizer_json_goes_before_a_model_file(write_directory, train_sentencepiece, tmp_path):
    model = tmp_path / "tokenizer.model"
    model.write_bytes(train_sentencepiece())
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"add_bos_token": false}')
    alone = load_tokenizer({model.name: model, config.name: config}, {})
    assert (alone.vocab_size, alone.adds_bos) == (420, False)
    assert load_tokenizer({model.name: model, **write_directory()}, {}).vocab_size < 300


def test_model_file_may_have_another_name_unless_there_are_several(train_sentencepiece, write):
    files = write(spiece__model=train_sentencepiece())
    assert load_tokenizer(files, {}).vocab_size == 420
    with pytest.raises(TokenizerError, match=r"several tokenizers: other\.model, spiece\.model"):
        load_tokenizer(files | write(other__model=b""), {})


def test_tekken_is_found(write):
    with pytest.raises(TokenizerError, match=r"tekken\.json is not a tekken"):
        load_tokenizer(write(tekken__json={}), {})


def test_checkpoint_without_template_has_none(write):
    assert template_of() is None
    assert template_of(write(tokenizer_config__json={"chat_template": None})) is None


@pytest.mark.parametrize(
    "value",
    [
        "one",
        [{"name": "default", "template": "one"}, {"name": "rag", "template": "two"}],
        [{"name": "only", "template": "one"}],
        {"default": "one", "rag": "two"},
    ],
)
def test_template_of_the_config_is_a_text_or_named_ones(write, value):
    assert template_of(write(tokenizer_config__json={"chat_template": value})) == "one"


def test_template_for_tools_is_used_with_tools(write):
    named = [{"name": "default", "template": "one"}, {"name": "tool_use", "template": "tools"}]
    files = write(tokenizer_config__json={"chat_template": named})
    template = load_chat_template(files, {}, None)
    assert template.render(MESSAGES, tools=[{"type": "function"}]) == "tools"
    assert template.render(MESSAGES) == "one"


def test_file_of_its_own_goes_before_the_config(write):
    files = write(tokenizer_config__json={"chat_template": "config"})
    assert template_of(files | write(chat_template__json={"chat_template": "json"})) == "json"
    files |= write(chat_template__json={"chat_template": "json"}, chat_template__jinja="jinja")
    assert template_of(files) == "jinja"


def test_templates_of_a_gguf_are_found():
    metadata = {"tokenizer.chat_template": "gguf", "tokenizer.chat_template.tool_use": "tools"}
    assert template_of(metadata=metadata) == "gguf"
    template = load_chat_template({}, metadata, None)
    assert template.render(MESSAGES, tools=[{}]) == "tools"
    assert template_of(metadata={"tokenizer.chat_templates": ["x"]}) is None


def test_directory_goes_before_a_gguf(write):
    metadata = {"tokenizer.chat_template": "gguf"}
    assert template_of(write(chat_template__jinja="file"), metadata) == "file"


def test_users_template_goes_before_all(write):
    files = write(
        chat_template__jinja="file", mine__jinja="mine", mine__json={"chat_template": "js"}
    )
    assert template_of(files, override=files["mine.jinja"]) == "mine"
    assert template_of(files, override=files["mine.json"]) == "js"


def test_template_may_write_the_tokenizers_special_tokens(write_directory):
    files = write_directory(
        tokenizer_config={"bos_token": "<s>", "chat_template": "{{ bos_token }}{{ pad_token }}!"}
    )
    tokenizer = load_tokenizer(files, {})
    text = load_chat_template(files, {}, tokenizer).render(MESSAGES)
    assert text == "<s>!"
    assert tokenizer.encode(text, add_special_tokens=False)[0] == tokenizer.bos_token_id


def test_users_template_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(TokenizerError, match=r"none\.jinja cannot be read"):
        template_of(override=tmp_path / "none.jinja")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"template": "x"}, "has no chat_template"),
        ({"chat_template": 5}, "neither a text nor a list"),
        ({"chat_template": ["x"]}, "neither a text nor a list"),
        ({"chat_template": [{"name": "a"}]}, "neither a text nor a list"),
        ("{", "is not JSON"),
    ],
)
def test_broken_template_file_is_named(write, content, message):
    files = write(mine__json=content)
    with pytest.raises(TokenizerError, match=rf"mine\.json.*{message}"):
        template_of(override=files["mine.json"])


def test_several_templates_without_a_default_are_named(write):
    named = {"rag": "one", "tool_use": "two"}
    with pytest.raises(TokenizerError, match="no default: rag, tool_use"):
        template_of(write(tokenizer_config__json={"chat_template": named}))
