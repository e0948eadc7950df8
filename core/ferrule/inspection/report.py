"""The report: what would be served, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin's offer that was taken.

    Attributes:
        name: The offer's.
        kind: A wrapper was peeled off, a dialect reads the names, the architecture computes.
        origin: The plugin's distribution and version.
        reason: What made it fit, or what it did.
    """

    name: str
    kind: Literal["wrapper", "dialect", "architecture"]
    origin: str
    reason: str


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """Where one tensor goes.

    Attributes:
        stored: Its name in the file.
        name: Its canonical name.
        module: Path of the module that takes it; None: no module does.
        shape: Of what is taken.
        format: How it is stored: ``BF16``, ``Q4_K`` ...
        rows: Which stored rows are taken, in words; empty for all as they are.
        nbytes: Stored size of what is taken.
        file: Name of the file that holds it.
    """

    stored: str
    name: str
    module: str | None
    shape: tuple[int, ...]
    format: str
    rows: str
    nbytes: int
    file: str


class AttentionLayer(msgspec.Struct, frozen=True, kw_only=True):
    """One attention layer as it is computed.

    Attributes:
        num_heads: Query heads.
        num_kv_heads: Key and value heads.
        head_dim: Channels of a head.
        window: How many tokens back a token sees, itself included; None: all.
        scale: Of the scores before softmax.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int | None
    scale: float


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What the model needs, and what there is; bytes and tokens.

    Attributes:
        free_bytes: Free on the device now.
        stored_bytes: The tensors in the files.
        weight_bytes: The same once they are loaded.
        kv_bytes_per_token: Keys and values of all layers.
        context: Tokens that ``kv_bytes`` is for.
        kv_bytes: KV cache of one sequence of ``context`` tokens.
        context_that_fits: The longest context that could be served here; 0: none.
        kv_tokens_that_fit: Tokens of all sequences together for which there is room.
    """

    free_bytes: int
    stored_bytes: int
    weight_bytes: int
    kv_bytes_per_token: int
    context: int
    kv_bytes: int
    context_that_fits: int
    kv_tokens_that_fit: int


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """What would be served, and why.

    Attributes:
        location: As the user gave it.
        kind: The container of the weights.
        choices: Wrappers in the order in which they peel off, the dialect, the architecture.
        not_chosen: Installed dialects and architectures that were not taken, by kind.
        config: The model's numbers, by the names of ModelConfig.
        context_length: Tokens that the positions reach.
        ropes: The rotary settings of every rotation that the model computes, by the names of
            RopeConfig; what is not set is left out.
        layers: The attention layers.
        dtype: Of activations.
        device: Where it would run.
        destinations: One for each canonical tensor of the file.
        ignored: Stored names that are left out, to the ``adapter: pattern`` that does it.
        missing: Canonical names that the model takes and the file lacks.
        surplus: Canonical names that the file has and the model does not take.
        misshaped: Canonical names to the file's shape and the model's.
        unknown_formats: Canonical names to formats that cannot be loaded.
        problems: The last four in words; empty: the model can be loaded.
        hint: What to do about them.
        notes: What people should know of the decision.
        memory: What it needs.
    """

    location: str
    kind: str
    choices: list[Choice]
    not_chosen: dict[str, list[str]]
    config: dict[str, Any]
    context_length: int
    ropes: list[dict[str, Any]]
    layers: list[AttentionLayer]
    dtype: str
    device: str
    destinations: list[Destination]
    ignored: Mapping[str, str]
    missing: tuple[str, ...]
    surplus: tuple[str, ...]
    misshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    unknown_formats: Mapping[str, str]
    problems: str
    hint: str
    notes: tuple[str, ...]
    memory: Memory
