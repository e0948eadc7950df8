"""Rotary settings from every place where configs keep them (cases C1-C3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, get_args

from ferrule.errors import ConfigError
from ferrule.model_config import RopeConfig, RopeType

ROPE_KEYS = frozenset(
    """
    rope_theta rope_scaling rope_parameters partial_rotary_factor rope_freq_factors
    original_max_position_embeddings
    """.split()  # noqa: SIM905
)
"""Top-level config keys that ``read_rope`` reads."""

_NUMBERS = frozenset(
    """
    low_freq_factor high_freq_factor beta_fast beta_slow attention_factor mscale
    mscale_all_dim
    """.split()  # noqa: SIM905
)
_OTHER = frozenset(
    """
    rope_type type rope_theta factor original_max_position_embeddings truncate
    partial_rotary_factor finetuned
    """.split()  # noqa: SIM905
)
_TYPES: tuple[str, ...] = get_args(RopeType)


def read_rope(
    config: Mapping[str, Any], *, head_dim: int, max_position_embeddings: int
) -> RopeConfig:
    """Reads ``rope_parameters`` (transformers 5) or ``rope_theta`` and ``rope_scaling`` (4).

    Args:
        config: Hugging Face's keys.
        head_dim: Channels of a head.
        max_position_embeddings: What stands for a missing original context, as in transformers.

    Raises:
        ConfigError: A type or key is not understood, or a needed one is missing.
    """
    # transformers lets rope_scaling win where both are present.
    scaling = _flat(config.get("rope_scaling") or config.get("rope_parameters") or {})
    if unknown := sorted(set(scaling) - _NUMBERS - _OTHER):
        raise ConfigError(
            f"The rope settings have keys that are not understood: {', '.join(unknown)}.",
            hint=f"Known keys: {', '.join(sorted(_NUMBERS | _OTHER))}.",
        )
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind not in _TYPES:
        raise ConfigError(
            f"rope_type is {kind!r}; understood are {', '.join(_TYPES)}.",
            hint="Another kind of scaling needs an architecture plugin of its own.",
        )
    original = _original(config, scaling, kind, max_position_embeddings)
    partial = scaling.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    factors = config.get("rope_freq_factors")
    return RopeConfig(
        type=cast("RopeType", kind),
        theta=float(scaling.get("rope_theta") or config.get("rope_theta") or 10000.0),
        rotary_dim=int(head_dim * partial),
        factor=_factor(scaling, kind, max_position_embeddings, original),
        original_max_position_embeddings=original,
        truncate=bool(scaling.get("truncate", True)),
        freq_factors=None if factors is None else tuple(float(f) for f in factors),
        **{key: float(scaling[key]) for key in _NUMBERS if scaling.get(key) is not None},
    )


def _flat(scaling: Mapping[str, Any]) -> dict[str, Any]:
    """The settings themselves; those kept by layer type must be the same for every type."""
    nested = [value for value in scaling.values() if isinstance(value, Mapping)]
    if not nested:
        return dict(scaling)
    first = cast("Mapping[str, Any]", nested[0])
    if len(nested) < len(scaling) or any(other != first for other in nested):
        raise ConfigError(
            f"The rope settings differ by layer type ({', '.join(scaling)}); this architecture "
            "rotates all layers alike.",
            hint="Settings by layer type need an architecture plugin of their own.",
        )
    return dict(first)


def _original(
    config: Mapping[str, Any], scaling: Mapping[str, Any], kind: str, max_positions: int
) -> int | None:
    if kind not in ("llama3", "yarn"):
        return None
    found = config.get("original_max_position_embeddings") or scaling.get(
        "original_max_position_embeddings"
    )
    return int(found or max_positions)


def _factor(
    scaling: Mapping[str, Any], kind: str, max_positions: int, original: int | None
) -> float:
    if kind == "default":
        return 1.0
    factor = scaling.get("factor")
    if factor is None and kind == "yarn" and original:
        return max_positions / original
    if factor is None or isinstance(factor, str | bool) or factor < 1:
        raise ConfigError(f"rope factor is {factor!r}; {kind} needs a number of at least 1.")
    return float(factor)
