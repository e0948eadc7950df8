"""A tokenizer from tokenizer.json, exactly as the file has it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tokenizers

from ferrule.errors import TokenizerError
from ferrule.tokenizer.tokenizer import Tokenizer
from ferrule.tokenizer.tokenizer_config import TokenizerConfig, add_tokens

_PROBE = "a"


def from_directory_files(files: Mapping[str, Path]) -> Tokenizer:
    """Build the tokenizer of a Hugging Face directory.

    The steps of tokenizer.json are never exchanged for those of a model family: a checkpoint's own
    way to cut text is the one it was trained with.

    Args:
        files: ``tokenizer.json``, and where there are such, ``tokenizer_config.json``,
            ``special_tokens_map.json`` and ``added_tokens.json``, by file name.

    Raises:
        TokenizerError: A file cannot be read, or two contradict each other.
    """
    path = files["tokenizer.json"]
    config = TokenizerConfig.from_files(files)
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the engine has no type of its own for a file it cannot read
        raise TokenizerError(f"{path} is not a tokenizer that can be read: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    add_tokens(backend, config)
    return Tokenizer(backend, special_tokens=config.special_tokens, prefix=_prefix(backend, config))


def _prefix(backend: tokenizers.Tokenizer, config: TokenizerConfig) -> list[int]:
    """What goes before a text: the post-processor's choice, or the config's where it has one."""
    plain = backend.encode(_PROBE, add_special_tokens=False).ids
    full = backend.encode(_PROBE).ids
    at = next((n for n in range(len(full)) if full[n : n + len(plain)] == plain), 0)
    prefix = full[:at]
    bos = backend.token_to_id(config.special_tokens.get("bos_token", ""))
    if config.add_bos_token is None or bos is None:
        return prefix
    others = [token for token in prefix if token != bos]
    return [bos, *others] if config.add_bos_token else others
