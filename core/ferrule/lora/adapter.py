"""A LoRA adapter that has been read and fits its base model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ferrule.lora.report import AdapterReport
from ferrule.lora.update import ModuleUpdate


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Adapter:
    """All that an adapter changes, under the base model's canonical names.

    Attributes:
        name: What requests call it.
        location: As the user gave it.
        content: Hash of everything that changes the output: equal for equal adapters wherever they
            lie, so that it can key the prefix cache.
        modules: By canonical module name, such as ``model.layers.3.self_attn.q_proj``,
            ``model.embed_tokens`` or ``lm_head``; never empty. ``lm_head`` may appear where the
            base's head is tied to its embedding: the head then is the embedding's matrix with this
            update, and the embedding has its own or none.
        vocab_size: Rows of the head with the adapter; the base's where it leaves them alone.
        added_tokens: Tokens of the adapter's tokenizer that the base's lacks, with their ids.
        files: The adapter's own tokenizer and chat template, by file name.
        report: What it touches, for people.
    """

    name: str
    location: str
    content: str
    modules: Mapping[str, ModuleUpdate]
    vocab_size: int
    added_tokens: Mapping[str, int]
    files: Mapping[str, Path]
    report: AdapterReport

    @property
    def rank(self) -> int:
        """The largest of all modules."""
        return max(update.rank for update in self.modules.values())


def content_hash(modules: Mapping[str, ModuleUpdate]) -> str:
    """SHA-256 over names, scales and tensors, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(modules):
        update = modules[name]
        digest.update(f"{name} {update.scale!r}\n".encode())
        for kind, tensor in update.tensors.items():
            digest.update(f"{kind} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
