"""What reading an adapter needs to know of the model that it changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ferrule.matching import Match
from ferrule.plugins import Plugins
from ferrule.quantization.formats import FORMATS

EMBEDDING = "model.embed_tokens"
HEAD = "lm_head"


@dataclass(frozen=True, kw_only=True, eq=False)
class Base:
    """The base model's modules, and its weights on demand.

    Attributes:
        match: How the base is read; its checkpoint has the canonical names.
        plugins: The weight adapters that may have to read the adapter's names as well.
    """

    match: Match
    plugins: Plugins

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """``(out_features, in_features)`` of each linear layer and embedding, by canonical name.

        An embedding is ``(hidden, vocabulary)``; a tied head is listed too.
        """
        shapes = {
            name.removesuffix(".weight"): (info.shape[0], info.shape[1])
            for name, info in self.match.checkpoint.tensors.items()
            if name.endswith(".weight") and len(info.shape) == 2
        }
        if EMBEDDING in shapes:
            vocab, hidden = shapes[EMBEDDING]
            shapes[EMBEDDING] = (hidden, vocab)
            shapes.setdefault(HEAD, (vocab, hidden))
        return shapes

    @property
    def location(self) -> str:
        """As the user gave it."""
        return self.match.checkpoint.location

    @property
    def is_tied(self) -> bool:
        """Whether the head is the embedding."""
        return self.match.config.tie_word_embeddings

    def has_bias(self, module: str) -> bool:
        """Whether the module adds a bias of its own."""
        return f"{module}.bias" in self.match.checkpoint.tensors

    def is_packed(self, module: str) -> bool:
        """Whether the module's weight is stored in blocks, with some error."""
        info = self.match.checkpoint.tensors.get(f"{module}.weight")
        info = info or self.match.checkpoint.tensors[f"{EMBEDDING}.weight"]
        return FORMATS[info.format].block_size > 1

    def read(self, name: str) -> Tensor:
        """A canonical tensor dequantised: ``lm_head.weight`` is the embedding's where tied."""
        if name == f"{HEAD}.weight" and name not in self.match.checkpoint.tensors:
            name = f"{EMBEDDING}.weight"
        info = self.match.checkpoint.tensors[name]
        data = torch.from_numpy(self.match.read(name))
        return FORMATS[info.format].dequantize(data).reshape(info.shape)
