"""From an adapter's spelling of modules to the base's canonical names, and the rows of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferrule.adapter import Rows, WeightAdapter
from ferrule.checkpoint.checkpoint import Checkpoint, TensorInfo
from ferrule.errors import CheckpointError, FerruleError
from ferrule.lora.base import Base
from ferrule.matching.pairing import fitting_dialects, peel
from ferrule.matching.renamed_checkpoint import RenamedCheckpoint, renamed

# What may stand before `layers.N`, `embed_tokens` and `lm_head` of a language model (case L13).
_OUTER = frozenset(
    (
        "_checkpoint_wrapped_module",
        "_fsdp_wrapped_module",
        "_orig_mod",
        "base_model",
        "language_model",
        "model",
        "module",
    )
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Home:
    """A canonical module that a spelled one is, or is a part of.

    Attributes:
        module: Canonical name.
        rows: Which of the spelled module's outputs it has, in which order; None: all as they are.
    """

    module: str
    rows: Rows | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Spelled:
    """A module as the adapter spells it.

    Attributes:
        name: Without ``base_model.model.``.
        num_rows: Of its output.
        num_cols: Of its input.
    """

    name: str
    num_rows: int
    num_cols: int


def find_homes(
    modules: Iterable[Spelled],
    base: Base,
    *,
    dialect: WeightAdapter | None = None,
    gguf_architecture: str | None = None,
) -> Mapping[str, tuple[Home, ...]]:
    """Finds the canonical modules of each spelled one.

    Names that are canonical but for what trainers put before them are taken as they are. Others go
    through the weight adapters that read the base, and then through all installed ones, as a
    checkpoint's names do.

    Args:
        modules: Every module of the adapter; together they show what wrote them.
        base: Whose names count.
        dialect: Reads the names, if their container says which one.
        gguf_architecture: Of a GGUF adapter: chooses the dialect that knows its order of rows.

    Returns:
        By spelled name; modules that the base lacks are left out.
    """
    known = {
        name.rpartition(".")[0] for name in base.match.checkpoint.tensors if "." in name
    } | set(base.shapes)
    modules = list(modules)
    homes: dict[str, tuple[Home, ...]] = {}
    for ways in (_as_they_are, _as_the_base, _as_any_checkpoint):
        missing = [each for each in modules if each.name not in homes]
        if not missing:
            break
        reading = _Reading(
            base=base, known=known, dialect=dialect, gguf_architecture=gguf_architecture
        )
        found = ways(modules, reading)
        homes |= {each.name: found[each.name] for each in missing if each.name in found}
    return homes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reading:
    base: Base
    known: set[str]
    dialect: WeightAdapter | None
    gguf_architecture: str | None

    @property
    def is_foreign(self) -> bool:
        """Whether the container has names and an order of rows of its own."""
        return self.dialect is not None or self.gguf_architecture is not None


def _as_they_are(modules: list[Spelled], reading: _Reading) -> dict[str, tuple[Home, ...]]:
    if reading.is_foreign:
        return {}
    plain = ((each.name, _canonical(each.name, reading.known)) for each in modules)
    return {name: (Home(module=module),) for name, module in plain if module is not None}


def _canonical(name: str, known: set[str]) -> str | None:
    """The name without trainers' prefixes and with ``model.`` where the base has that."""
    parts = name.split(".")
    outer = next((i for i, part in enumerate(parts) if part not in _OUTER), len(parts))
    inner = ".".join(part for part in parts[outer:] if not part.startswith("_"))
    return next((each for each in (f"model.{inner}", inner, name) if each in known), None)


def _as_the_base(modules: list[Spelled], reading: _Reading) -> dict[str, tuple[Home, ...]]:
    """The base's own wrappers, and its dialect where that has a pattern for every name."""
    if reading.is_foreign:
        return {}
    checkpoint = _pseudo(modules, reading)
    *wrappers, dialect = reading.base.match.adapters
    try:
        for wrapper in wrappers:
            checkpoint = renamed(checkpoint, wrapper, checkpoint.config)
        spelled = renamed(checkpoint, dialect, checkpoint.config)
    except FerruleError:
        # What the base is called says nothing of this adapter.
        return {}
    return _homes(checkpoint if spelled.unknown else spelled, reading.known)


def _as_any_checkpoint(modules: list[Spelled], reading: _Reading) -> dict[str, tuple[Home, ...]]:
    checkpoint = _pseudo(modules, reading)
    if reading.dialect is not None:
        return _homes(renamed(checkpoint, reading.dialect, checkpoint.config), reading.known)
    try:
        peeled, _ = peel(checkpoint, reading.base.plugins)
    except CheckpointError:
        # A wrapper has something against such names as a model's; here they are just unknown.
        return {}
    dialects = fitting_dialects(peeled, reading.base.plugins)
    if len(dialects) == 1:
        peeled = renamed(peeled, dialects[0], peeled.config)
    return _homes(peeled, reading.known)


def _pseudo(modules: list[Spelled], reading: _Reading) -> RenamedCheckpoint:
    """A checkpoint that has the modules' weights, for plugins that look at headers."""
    tensors = {
        f"{each.name}.weight": TensorInfo(
            name=f"{each.name}.weight",
            shape=(each.num_rows, each.num_cols),
            format="F32",
            file=Path(),
            offset=0,
            nbytes=each.num_rows * each.num_cols * 4,
        )
        for each in modules
    }
    stored = Checkpoint(
        location=reading.base.location,
        kind="safetensors" if reading.gguf_architecture is None else "gguf",
        config=_config(reading),
        tensors=tensors,
    )
    return RenamedCheckpoint.unchanged(stored)


def _config(reading: _Reading) -> dict[str, Any]:
    """The base's config, with the numbers that row operations ask for filled in."""
    config = reading.base.match.config
    numbers = {
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
    }
    # A head in an adapter is the head, also where the base has one matrix for both.
    others = {"general.architecture": reading.gguf_architecture, "tie_word_embeddings": False}
    return {**reading.base.match.checkpoint.config, **numbers, **others}


def _homes(checkpoint: RenamedCheckpoint, known: set[str]) -> dict[str, tuple[Home, ...]]:
    homes: dict[str, tuple[Home, ...]] = {}
    for name, spelled, rows in _sources(checkpoint):
        module = _canonical(name, known)
        if module is not None:
            homes[spelled] = (*homes.get(spelled, ()), Home(module=module, rows=rows))
    return homes


def _sources(checkpoint: RenamedCheckpoint) -> Iterator[tuple[str, str, Rows | None]]:
    for name, source in checkpoint.sources.items():
        yield name.removesuffix(".weight"), source.stored.removesuffix(".weight"), source.rows
