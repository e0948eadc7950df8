"""Finds a checkpoint's tokenizer and chat template among its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ferrule.errors import TokenizerError
from ferrule.tokenizer.chat_template import ChatTemplate
from ferrule.tokenizer.gguf import from_gguf_metadata
from ferrule.tokenizer.huggingface import from_directory_files
from ferrule.tokenizer.sentencepiece import from_sentencepiece
from ferrule.tokenizer.tekken import from_tekken
from ferrule.tokenizer.tokenizer import Tokenizer
from ferrule.tokenizer.tokenizer_config import TokenizerConfig, read_json

_GGUF_TEMPLATE = "tokenizer.chat_template"


def load_tokenizer(files: Mapping[str, Path], metadata: Mapping[str, Any]) -> Tokenizer | None:
    """Build the tokenizer of a checkpoint.

    Files go before a GGUF's metadata, since they are there because the user named their directory.

    Args:
        files: The small files beside the weights, by file name.
        metadata: A GGUF's metadata, or nothing.

    Returns:
        The tokenizer, or None for a checkpoint that has none.

    Raises:
        TokenizerError: There is one that cannot be used.
    """
    if "tokenizer.json" in files:
        return from_directory_files(files)
    if "tekken.json" in files:
        return from_tekken(files["tekken.json"])
    if (model := _sentencepiece_file(files)) is not None:
        return from_sentencepiece(model, TokenizerConfig.from_files(files))
    if metadata.get("tokenizer.ggml.model", "none") not in ("none", "no_vocab"):
        return from_gguf_metadata(metadata)
    return None


def read_chat_templates(files: Mapping[str, Path], metadata: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates of a checkpoint as they stand, by name; most have only "default".

    Args:
        files: The small files beside the weights, by file name.
        metadata: A GGUF's metadata, or nothing.

    Raises:
        TokenizerError: A file is not of the form it should have.
    """
    return _directory_templates(files) or _gguf_templates(metadata)


def load_chat_template(
    files: Mapping[str, Path],
    metadata: Mapping[str, Any],
    tokenizer: Tokenizer | None,
    override: Path | None = None,
) -> ChatTemplate | None:
    """Build the chat template of a checkpoint.

    Args:
        files: The small files beside the weights, by file name.
        metadata: A GGUF's metadata, or nothing.
        tokenizer: Names the special tokens that the template may write.
        override: The user's own template: Jinja, or JSON with ``chat_template``.

    Returns:
        The template, or None for a checkpoint that has none.

    Raises:
        TokenizerError: A template is broken, or none of several is the default.
    """
    templates = (
        _named_templates(_read_template(override), override)
        if override is not None
        else read_chat_templates(files, metadata)
    )
    if not templates:
        return None
    if "default" not in templates and len(templates) > 1:
        raise TokenizerError(
            f"the checkpoint has several chat templates and no default: {', '.join(templates)}",
            hint="Give the one to use with --chat-template FILE.",
        )
    source = templates.get("default", next(iter(templates.values())))
    special_tokens = {} if tokenizer is None else tokenizer.special_tokens
    return ChatTemplate(source, special_tokens, tools_source=templates.get("tool_use"))


def _sentencepiece_file(files: Mapping[str, Path]) -> Path | None:
    if "tokenizer.model" in files:
        return files["tokenizer.model"]
    models = sorted(name for name in files if name.endswith(".model"))
    if len(models) > 1:
        raise TokenizerError(
            f"the checkpoint has several tokenizers: {', '.join(models)}",
            hint="Name the right one tokenizer.model.",
        )
    return files[models[0]] if models else None


def _directory_templates(files: Mapping[str, Path]) -> dict[str, str]:
    """In the order in which transformers looks: a file of its own before the config's entry."""
    for name in ("chat_template.jinja", "chat_template.json"):
        if name in files:
            return _named_templates(_read_template(files[name]), files[name])
    path = files.get("tokenizer_config.json")
    return _named_templates(read_json(path).get("chat_template"), path)


def _gguf_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    named = {
        key.removeprefix(_GGUF_TEMPLATE + "."): str(value)
        for key, value in metadata.items()
        if key.startswith(_GGUF_TEMPLATE + ".")
    }
    default = metadata.get(_GGUF_TEMPLATE)
    return named if default is None else {"default": str(default), **named}


def _read_template(path: Path) -> object:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"the chat template {path} cannot be read: {error}") from error
    if path.suffix != ".json":
        return text
    content = read_json(path)
    if "chat_template" not in content:
        raise TokenizerError(f"{path} has no chat_template", hint=f"It has: {', '.join(content)}")
    return content["chat_template"]


def _named_templates(value: object, path: Path | None) -> dict[str, str]:
    """Templates by name, from one template, a list of named ones, or an object of them."""
    match value:
        case None:
            return {}
        case str():
            return {"default": value}
        case list():
            pairs = [_pair(entry) for entry in cast("list[object]", value)]
        case dict():
            pairs = list(cast("dict[object, object]", value).items())
        case _:
            pairs = [(None, None)]
    templates = {n: text for n, text in pairs if isinstance(n, str) and isinstance(text, str)}
    if len(templates) != len(pairs):
        raise TokenizerError(
            f"{path}: chat_template is neither a text nor a list of objects with name and template"
        )
    return templates


def _pair(entry: object) -> tuple[object, object]:
    if not isinstance(entry, dict):
        return None, None
    named = cast("dict[str, object]", entry)
    return named.get("name"), named.get("template")
