"""What the JSON files around a vocabulary say of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import tokenizers

from ferrule.errors import TokenizerError

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """tokenizer_config.json with special_tokens_map.json and added_tokens.json.

    Attributes:
        special_tokens: The named special tokens: ``bos_token``, ``eos_token``, ``image_token`` ...
        extra_special_tokens: Special tokens without a name.
        added_tokens: Tokens beyond the vocabulary proper, by id.
        add_bos_token: Whether BOS goes before a text; None when nothing is said.
        is_legacy: Whether a space also goes before a text that follows a special token.
    """

    special_tokens: Mapping[str, str] = field(default_factory=dict[str, str])
    extra_special_tokens: tuple[str, ...] = ()
    added_tokens: Mapping[int, tokenizers.AddedToken] = field(
        default_factory=dict[int, tokenizers.AddedToken]
    )
    add_bos_token: bool | None = None
    is_legacy: bool = True

    @classmethod
    def from_files(cls, files: Mapping[str, Path]) -> TokenizerConfig:
        """Read whichever of the files are there.

        Raises:
            TokenizerError: One of them is not JSON, or not of the form it should have.
        """
        config = read_json(files.get("tokenizer_config.json"))
        special_map = read_json(files.get("special_tokens_map.json"))
        # transformers reads the map only beside a config from before added_tokens_decoder.
        merged = (
            {**special_map, **config}
            if "added_tokens_decoder" in config
            else {**config, **special_map}
        )
        special = _special_tokens(merged)
        extra = tuple(_extra_special_tokens(merged))
        added = _added_tokens(
            config, read_json(files.get("added_tokens.json")), {*special.values(), *extra}
        )
        add_bos = config.get("add_bos_token")
        return cls(
            special_tokens=special,
            extra_special_tokens=extra,
            added_tokens=added,
            add_bos_token=add_bos if isinstance(add_bos, bool) else None,
            is_legacy=config.get("legacy") is not False,
        )


def add_tokens(backend: tokenizers.Tokenizer, config: TokenizerConfig) -> None:
    """Give a vocabulary the added and special tokens that only its config names.

    Raises:
        TokenizerError: The config gives a token another id than the vocabulary does.
    """
    known = {added.content for added in backend.get_added_tokens_decoder().values()}
    for token, added in config.added_tokens.items():
        if added.content not in known:
            backend.add_tokens([added])
        found = backend.token_to_id(added.content)
        if found != token:
            raise TokenizerError(
                f"token {added.content!r} has id {token} in tokenizer_config.json or "
                f"added_tokens.json, but {found} by the vocabulary",
                hint="Save the tokenizer again with the model; one of its files is out of date.",
            )
    known = {added.content for added in backend.get_added_tokens_decoder().values()}
    for text in (*config.special_tokens.values(), *config.extra_special_tokens):
        if text in known:
            continue
        if backend.token_to_id(text) is None:
            _log.warning("special token %r is not in the vocabulary; it is read as text", text)
            continue
        backend.add_special_tokens([tokenizers.AddedToken(text, normalized=False, special=True)])


def read_json(path: Path | None) -> dict[str, Any]:
    """A JSON object from a file; empty when there is no file.

    Raises:
        TokenizerError: The file is not a JSON object.
    """
    if path is None:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} is not a JSON object, but a {type(value).__name__}")
    return cast("dict[str, Any]", value)


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    named = {key: value for key, value in config.items() if key.endswith("_token")}
    for key in ("extra_special_tokens", "model_specific_special_tokens"):
        if isinstance(value := config.get(key), dict):
            named |= value
    texts = {name: _text(value) for name, value in named.items()}
    return {name: text for name, text in texts.items() if text is not None}


def _extra_special_tokens(config: Mapping[str, Any]) -> Iterator[str]:
    for key in ("additional_special_tokens", "extra_special_tokens"):
        values = config.get(key)
        if isinstance(values, list):
            yield from (text for value in values if (text := _text(value)) is not None)


def _added_tokens(
    config: Mapping[str, Any], added_tokens: Mapping[str, Any], special: Container[str]
) -> dict[int, tokenizers.AddedToken]:
    added = {
        token: tokenizers.AddedToken(text, special=text in special, normalized=text not in special)
        for text, token in added_tokens.items()
        if isinstance(token, int)
    }
    decoder = config.get("added_tokens_decoder", {})
    for token, described in decoder.items() if isinstance(decoder, dict) else ():
        text = _text(described)
        if text is None or not token.isdecimal():
            raise TokenizerError(
                f"tokenizer_config.json: added_tokens_decoder[{token!r}] is {described!r}; "
                "expected an id with an object that has content"
            )
        flags = {flag: bool(described.get(flag, False)) for flag in _FLAGS}
        flags["special"] |= text in special
        added[int(token)] = tokenizers.AddedToken(text, **flags)
    return dict(sorted(added.items()))


def _text(value: object) -> str | None:
    """A token as text, from the text itself or from a description of it; None for neither."""
    if isinstance(value, dict):
        value = cast("dict[str, object]", value).get("content")
    return value if isinstance(value, str) else None
