"""Whether an adapter says that it was trained on the model that it is put on."""

from __future__ import annotations

import re

from ferrule.lora.base import Base

# Quantised copies of a model, which an adapter of it fits as well (case L19).
_COPY = re.compile(r"(-unsloth)?(-bnb-4bit|-bnb-8bit|-gptq|-awq|-gguf|-4bit|-8bit)+$", re.I)


def same_model(name: str) -> str:
    """A model's name without its owner, revision, and the marks of quantised copies."""
    last = name.split("@")[0].rstrip("/").rpartition("/")[2]
    return _COPY.sub("", last).casefold()


def base_notes(trained_on: str, base: Base) -> list[str]:
    """A note if the base bears another name than the adapter's config says.

    Names prove nothing, since a directory can be called anything: only shapes are refused.
    """
    own = [base.location, str(base.match.checkpoint.config.get("_name_or_path") or "")]
    names = {same_model(name.removesuffix(".gguf")) for name in own if name}
    expected = same_model(trained_on)
    if not expected or any(expected in name or name in expected for name in names):
        return []
    return [
        f"the adapter says that it was trained on {trained_on}; its shapes fit {base.location}, "
        "but make sure that they are the same model"
    ]
