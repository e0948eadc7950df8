"""The small files of a merged model: config, tokenizer, chat template."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ferrule.checkpoint.adapter_files import tokenizer_files
from ferrule.lora.adapter import Adapter
from ferrule.lora.base import Base

_CONFIG = "config.json"


def write_small_files(base: Base, adapter: Adapter, out: Path, *, is_untied: bool) -> None:
    """Copies the base's small files, and changes what the merge has changed.

    The adapter's tokenizer takes the place of the base's where it adds tokens, as a whole; without
    new tokens only its chat template is taken.

    Args:
        base: Whose files count.
        adapter: With its own tokenizer or none.
        out: The merged model's directory.
        is_untied: Whether the head has become a matrix of its own.
    """
    files = dict(base.match.checkpoint.stored.files)
    if adapter.added_tokens:
        for name in tokenizer_files(files):
            del files[name]
        files |= adapter.files
    elif "chat_template.jinja" in adapter.files:
        files["chat_template.jinja"] = adapter.files["chat_template.jinja"]
    for name, file in files.items():
        if name != _CONFIG:
            shutil.copyfile(file, out / name)
    changes: dict[str, Any] = {}
    if adapter.vocab_size != base.match.config.vocab_size:
        changes["vocab_size"] = adapter.vocab_size
    if is_untied:
        changes["tie_word_embeddings"] = False
    config = changed_config(base.match.checkpoint.stored.config, changes)
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (out / _CONFIG).write_text(text + "\n", encoding="utf-8")


def changed_config(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A config with some keys set at its top, and in parts of it that have them as well."""
    changed = {
        key: changed_part(value, changes) if isinstance(value, Mapping) else value
        for key, value in config.items()
    }
    return {**changed, **changes}


def changed_part(part: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The part with those of the changes that it has keys for."""
    return {key: changes.get(key, value) for key, value in part.items()}
