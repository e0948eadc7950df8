"""Why a checkpoint matches nothing, or too much: what it is, what is installed, what is near."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from ferrule.adapter import WeightAdapter
from ferrule.architecture import Architecture
from ferrule.checkpoint.checkpoint import Checkpoint
from ferrule.errors import LoadError, MatchError
from ferrule.plugins import Plugins
from ferrule.plugins.plugin import Offer

_ADAPTER_PAGE = "docs/tutorial/first-adapter"
_ARCHITECTURE_PAGE = "docs/tutorial/first-architecture"
_SHOWN = 8


def no_dialect(checkpoint: Checkpoint, plugins: Plugins) -> MatchError:
    """The tensors' names look like no installed dialect."""
    dialects = [a for a in plugins.weight_adapters.values() if a.kind == "dialect"]
    return MatchError(
        f"No installed weight adapter reads the tensor names of {checkpoint.location}.\n"
        f"Found: {_config_words(checkpoint.config)}; {_tensor_words(checkpoint)}.\n"
        f"Installed weight adapters: {_listed(dialects, plugins)}.\n"
        f"Installed architectures: {_listed(plugins.architectures.values(), plugins)}."
        + _nearest(checkpoint.config, plugins.architectures),
        hint="If the architecture is installed, a weight adapter plugin of ten lines fixes this: "
        f"{_ADAPTER_PAGE}. --weight-adapter NAME takes an installed one all the same.",
    )


def no_architecture(
    checkpoint: Checkpoint, configs: Sequence[Mapping[str, Any]], plugins: Plugins
) -> MatchError:
    """No architecture takes the config, whichever dialect reads it."""
    return MatchError(
        f"No installed architecture fits {checkpoint.location}.\n"
        f"Found: {_config_words(configs[0])}; {_tensor_words(checkpoint)}.\n"
        f"Installed architectures: {_listed(plugins.architectures.values(), plugins)}."
        + _nearest(configs[0], plugins.architectures),
        hint="If one of them computes the same, choose it: --architecture NAME. Otherwise an "
        f"architecture plugin of about fifty lines fixes this: {_ARCHITECTURE_PAGE}.",
    )


def several_pairs(
    checkpoint: Checkpoint,
    pairs: Sequence[tuple[WeightAdapter, Architecture]],
    plugins: Plugins,
) -> MatchError:
    """More than one dialect or architecture fits; installation order must not choose."""
    listed = "\n".join(
        f"- weight adapter {_named(dialect, plugins)}, architecture {_named(each, plugins)}"
        for dialect, each in pairs
    )
    flags = [
        f"{flag} {' | '.join(names)}"
        for flag, names in (
            ("--weight-adapter", sorted({dialect.name for dialect, _ in pairs})),
            ("--architecture", sorted({each.name for _, each in pairs})),
        )
        if len(names) > 1
    ]
    return MatchError(
        f"{len(pairs)} ways to read {checkpoint.location} fit:\n{listed}",
        hint=f"Choose one: {' and '.join(flags)}. (A plugin that renames only some tensors of a "
        "checkpoint is better a wrapper, kind='wrapper', than a dialect.)",
    )


def not_installed(
    flag: str, name: str, offers: Mapping[str, Offer], plugins: Plugins
) -> MatchError:
    """A name that was asked for does not exist."""
    return MatchError(
        f"{flag} {name}: not installed. Installed: {_listed(offers.values(), plugins)}."
        + _nearest_text([name], offers),
        hint="`ferrule plugins` lists what is installed, with errors.",
    )


def is_wrapper(name: str, dialects: Mapping[str, Offer], plugins: Plugins) -> MatchError:
    """A wrapper was asked for where only a dialect can be chosen."""
    return MatchError(
        f"--weight-adapter {name}: this one peels a wrapper off and is applied by itself wherever "
        f"it matches. Dialects to choose from: {_listed(dialects.values(), plugins)}."
    )


def two_spellings(names: Sequence[str], dialect: WeightAdapter) -> LoadError:
    """Tensors that bear canonical names in a file of another dialect."""
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return LoadError(
        f"The weight adapter {dialect.name!r} reads this checkpoint, but {len(names)} of its "
        f"tensors bear canonical names already: {shown}.",
        hint="A checkpoint must be written in one dialect; convert it again.",
    )


def _config_words(config: Mapping[str, Any]) -> str:
    """``model_type 'llama', architectures LlamaForCausalLM``, or a GGUF's own word."""
    words = [
        f"{key} {config[key]!r}"
        for key in ("model_type", "general.architecture")
        if config.get(key)
    ]
    if names := config.get("architectures"):
        words.append(f"architectures {', '.join(map(str, names))}")
    return ", ".join(words) or "a config with neither model_type nor architectures"


def _tensor_words(checkpoint: Checkpoint) -> str:
    """How many tensors, and three whose names differ by more than a number."""
    kinds: dict[str, str] = {}
    for name in checkpoint.tensors:
        kinds.setdefault(re.sub(r"\d+", "0", name), name)
    samples = ", ".join(list(kinds.values())[:3])
    return f"{len(checkpoint.tensors)} tensors such as {samples}"


def _listed(offers: Iterable[Offer], plugins: Plugins) -> str:
    return ", ".join(_named(offer, plugins) for offer in offers) or "none"


def _named(offer: Offer, plugins: Plugins) -> str:
    return f"{offer.name} ({plugins.origin(offer)})"


def _nearest(config: Mapping[str, Any], offers: Mapping[str, Offer]) -> str:
    names = [config.get("model_type"), config.get("general.architecture")]
    names += config.get("architectures") or []
    return _nearest_text([str(name) for name in names if name], offers)


def _nearest_text(names: Sequence[str], offers: Mapping[str, Offer]) -> str:
    """The installed name nearest to any of some names, class suffixes aside."""
    for name in names:
        short = re.sub(r"For[A-Z]\w*$|Model$", "", name).lower()
        if near := get_close_matches(short, offers, n=1):
            return f" The nearest is {near[0]!r}."
    return ""
