"""adapter_config.json as PEFT writes it, read strictly: what is not understood is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from ferrule.errors import ConfigError
from ferrule.lora.refused_settings import refuse_settings

_Number = TypeVar("_Number", int, float)

ALL_LINEAR = "all-linear"
_OUTSIDE_ALL_LINEAR = ("lm_head", "embed_tokens")


@dataclass(frozen=True, kw_only=True, slots=True)
class PeftConfig:
    """What decides which modules an adapter changes, and by how much.

    Module names are those of the model that was trained, without ``base_model.model.``. A tool may
    have shortened them in the tensors' names, so that the canonical name is asked for as well.

    Attributes:
        location: Of the adapter, for messages.
        rank: Of modules that no pattern names.
        alpha: Of modules that no pattern names.
        uses_rslora: Whether the scale is ``alpha / sqrt(rank)`` (arXiv 2312.03732).
        rank_pattern: Ranks by name, end of a name or regular expression; the first that fits.
        alpha_pattern: Alphas likewise.
        target_modules: Names or ends of names, one regular expression, or None: not known.
        exclude_modules: Likewise; they are left alone whatever the targets say.
        layers_to_transform: Numbers of the layers that list targets are confined to; None: all.
        layers_pattern: Names of the list of layers.
        modules_to_save: Modules stored in full.
        token_indices: Rows of embeddings that were trained, by name of the embedding.
        ties_weights: Whether what is trained of a tied embedding counts for the head as well.
        uses_dora: Whether magnitudes are expected.
        base: The base model's name or path, with ``@revision``; empty if not given.
    """

    location: str
    rank: int
    alpha: float
    uses_rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict[str, int])
    alpha_pattern: Mapping[str, float] = field(default_factory=dict[str, float])
    target_modules: Sequence[str] | str | None = None
    exclude_modules: Sequence[str] | str = ()
    layers_to_transform: Sequence[int] | None = None
    layers_pattern: Sequence[str] = ()
    modules_to_save: Sequence[str] = ()
    token_indices: Mapping[str, Sequence[int]] = field(default_factory=dict[str, "Sequence[int]"])
    ties_weights: bool = False
    uses_dora: bool = False
    base: str = ""

    def rank_of(self, *names: str) -> int:
        """The rank that a module of these names must have."""
        return _fitting(self.rank_pattern, names, self.rank)

    def scale(self, rank: int, *names: str) -> float:
        """What ``B A`` of a module of these names is multiplied by."""
        alpha = _fitting(self.alpha_pattern, names, self.alpha)
        return alpha / (math.sqrt(rank) if self.uses_rslora else rank)

    def is_saved(self, module: str) -> bool:
        """Whether a module is stored in full."""
        return any(module == name or module.endswith(f".{name}") for name in self.modules_to_save)

    def is_target(self, module: str) -> bool:
        """Whether PEFT would put a low-rank part on a module of this name."""
        if self.is_saved(module) or _is_named(self.exclude_modules, module):
            return False
        targets = self.target_modules
        if isinstance(targets, str) and targets.lower() == ALL_LINEAR:
            return not module.endswith(_OUTSIDE_ALL_LINEAR)
        if targets is None or isinstance(targets, str):
            return targets is not None and re.fullmatch(targets, module) is not None
        # As PEFT has it, a module named in full is meant whatever the layers.
        return module in targets or (_is_named(targets, module) and self._is_in_layers(module))

    def _is_in_layers(self, module: str) -> bool:
        if not self.layers_to_transform:
            return True
        patterns = [rf"(?:^|.*?\.){name}" for name in self.layers_pattern] or [r".*?\.[^.]*"]
        found = next((m for p in patterns if (m := re.match(rf"{p}\.(\d+)\.", module))), None)
        return found is not None and int(found[1]) in self.layers_to_transform


def read_peft_config(location: str, values: Mapping[str, Any]) -> PeftConfig:
    """Reads adapter_config.json.

    Args:
        location: Of the adapter, for messages.
        values: The file's.

    Raises:
        ConfigError: A key is of the wrong type, or asks for something that can be neither applied
            nor merged; the message says why and what to do.
    """
    refuse_settings(location, values)
    alpha = values.get("lora_alpha", 8)
    layers = values.get("layers_to_transform")
    base = values.get("base_model_name_or_path") or ""
    revision = values.get("revision")
    config = PeftConfig(
        location=location,
        rank=values.get("r", 8),
        alpha=alpha,
        uses_rslora=bool(values.get("use_rslora")),
        rank_pattern=_patterns(location, "rank_pattern", values),
        alpha_pattern=_patterns(location, "alpha_pattern", values),
        target_modules=_names(values.get("target_modules")),
        exclude_modules=_names(values.get("exclude_modules")) or (),
        layers_to_transform=[layers] if isinstance(layers, int) else layers,
        layers_pattern=_several(values.get("layers_pattern")),
        modules_to_save=_several(values.get("modules_to_save")),
        token_indices=_token_indices(values.get("trainable_token_indices")),
        ties_weights=bool(values.get("ensure_weight_tying")),
        uses_dora=bool(values.get("use_dora")),
        base=f"{base}@{revision}" if base and revision else base,
    )
    _check_numbers(config)
    _check_expressions(config)
    return config


def _check_numbers(config: PeftConfig) -> None:
    ranks: list[Any] = [config.rank, *config.rank_pattern.values()]
    alphas: list[Any] = [config.alpha, *config.alpha_pattern.values()]
    for key, numbers, kinds in (("r", ranks, (int,)), ("lora_alpha", alphas, (int, float))):
        for number in numbers:
            if type(number) not in kinds or number <= 0:
                raise ConfigError(
                    f"{config.location}: adapter_config.json has {key} {number!r}; "
                    "a positive number is expected."
                )


def _check_expressions(config: PeftConfig) -> None:
    written = [*config.rank_pattern, *config.alpha_pattern, *config.layers_pattern]
    written += [
        each for each in (config.target_modules, config.exclude_modules) if isinstance(each, str)
    ]
    for text in written:
        try:
            re.compile(text)
        except re.error as error:
            raise ConfigError(
                f"{config.location}: {text!r} in adapter_config.json is no regular expression: "
                f"{error}."
            ) from error


def _patterns(location: str, key: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    patterns = values.get(key) or {}
    if not isinstance(patterns, Mapping):
        raise ConfigError(f"{location}: {key} is {patterns!r}; numbers by module are expected.")
    return cast("Mapping[str, Any]", patterns)


def _names(value: object) -> list[str] | str | None:
    if value is None or isinstance(value, str):
        return value
    return [str(name) for name in cast("Iterable[object]", value)]


def _several(value: object) -> list[str]:
    names = _names(value) or []
    return [names] if isinstance(names, str) else names


def _token_indices(value: object) -> Mapping[str, Sequence[int]]:
    """A plain list is of the input embedding."""
    if not value:
        return {}
    if isinstance(value, Mapping):
        return cast("Mapping[str, Sequence[int]]", value)
    return {"embed_tokens": cast("Sequence[int]", value)}


def _fitting(patterns: Mapping[str, _Number], names: Sequence[str], default: _Number) -> _Number:
    for pattern, number in patterns.items():
        if any(re.match(rf"(.*\.)?({pattern})$", name) for name in names):
            return number
    return default


def _is_named(names: Sequence[str] | str, module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)
