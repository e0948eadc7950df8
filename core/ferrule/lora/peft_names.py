"""Names of the tensors in a PEFT adapter: which part of which module each one is."""

from __future__ import annotations

from collections.abc import Iterable

from ferrule.errors import CheckpointError
from ferrule.lora.peft_config import PeftConfig
from ferrule.lora.stored import Part, PartKind

_PREFIX = "base_model.model."

_LORA = {
    ("lora_A", "weight"): PartKind.a,
    ("lora_B", "weight"): PartKind.b,
    ("lora_B", "bias"): PartKind.lora_bias,
    ("lora_embedding_A", ""): PartKind.embedding_a,
    ("lora_embedding_B", ""): PartKind.embedding_b,
    ("lora_embedding_A", "weight"): PartKind.embedding_a,
    ("lora_embedding_B", "weight"): PartKind.embedding_b,
    ("lora_magnitude_vector", ""): PartKind.magnitude,
    ("lora_magnitude_vector", "weight"): PartKind.magnitude,
}
_LORA_NAMES = frozenset(name for name, _ in _LORA)
_REPLACING = {"weight": PartKind.base_weight, "bias": PartKind.bias}
_TOKENS = ".token_adapter.trainable_tokens_delta"


def parts_of(
    location: str, names: Iterable[str], config: PeftConfig
) -> tuple[tuple[Part, ...], tuple[str, ...]]:
    """Sorts tensors by module.

    Args:
        location: Of the adapter, for messages.
        names: As stored.
        config: Which modules are stored in full.

    Returns:
        The parts, and the names that are none.

    Raises:
        CheckpointError: Two adapters share the file.
    """
    parts: list[Part] = []
    unknown: list[str] = []
    labels: set[str] = set()
    for stored in names:
        name = stored
        while name.startswith(_PREFIX):
            name = name.removeprefix(_PREFIX)
        found = _lora_part(name, labels) or _full_part(name, config)
        if found is None:
            unknown.append(stored)
        else:
            parts.append(Part(stored=stored, module=found[0], kind=found[1]))
    if len(labels) > 1:
        raise CheckpointError(
            f"{location} holds several adapters in one file: {', '.join(sorted(labels))}.",
            hint="Save them one by one: save_pretrained(..., selected_adapters=[NAME]).",
        )
    return tuple(parts), tuple(unknown)


def _lora_part(name: str, labels: set[str]) -> tuple[str, PartKind] | None:
    """``q_proj.lora_A.weight``, or ``q_proj.lora_A.default.weight`` with the adapter's label."""
    components = name.split(".")
    where = next((i for i, part in enumerate(components) if part in _LORA_NAMES), None)
    if where is None:
        return None
    module, which, rest = ".".join(components[:where]), components[where], components[where + 1 :]
    last = rest.pop() if rest and rest[-1] in ("weight", "bias") else ""
    if len(rest) > 1 or (which, last) not in _LORA:
        return None
    labels.update(rest)
    return module, _LORA[which, last]


def _full_part(name: str, config: PeftConfig) -> tuple[str, PartKind] | None:
    if name.endswith(_TOKENS):
        return name.removesuffix(_TOKENS), PartKind.token_rows
    module, _, kind = name.rpartition(".")
    if not module or kind not in _REPLACING or not _LORA_NAMES.isdisjoint(name.split(".")):
        return None
    owner, _, last = module.rpartition(".")
    if owner.endswith(".modules_to_save") or owner == "modules_to_save":
        owner, last = owner.rpartition(".")[0], "modules_to_save"
    if last in ("base_layer", "original_module"):
        return owner, _REPLACING[kind]
    is_copy = last == "modules_to_save"
    module = owner if is_copy else module
    if kind == "weight" and (is_copy or config.is_saved(module)):
        return module, PartKind.weight
    return module, _REPLACING[kind]
