"""What an adapter does to one module of the base model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ModuleUpdate:
    """The change to one canonical linear layer or embedding.

    A linear layer ``y = W x + c`` becomes ``y = gain * (W' x + scale * B A x) + c + bias``, where
    ``W'`` is ``full`` or else ``W``, and ``gain`` is 1 without a magnitude. An embedding counts as
    a linear layer over one-hot tokens: ``in_features`` is the vocabulary and ``out_features`` the
    hidden size, so that its stored matrix ``[vocabulary, hidden]`` gains ``scale * (B A)^T``.

    All tensors are on the CPU. Row orders are those of the canonical base weight.

    Attributes:
        a: ``[rank, in_features]`` as stored (float32, float16 or bfloat16); None: no low-rank part.
        b: ``[out_features, rank]`` as stored, not multiplied by the scale.
        scale: ``lora_alpha / rank``, or ``/ sqrt(rank)`` for rsLoRA, of this module.
        bias: ``[out_features]`` float32, added to the output: what trained biases differ by from
            the base's, and LoRA's own bias times the scale.
        magnitude: DoRA's length of each output's weights, ``[out_features]``; see ``dora_gain``.
        full: Replaces the stored base weight: ``[out, in]``, or ``[vocabulary, hidden]`` of an
            embedding. Embedding and head may have other numbers of rows than the base's.
    """

    a: Tensor | None = None
    b: Tensor | None = None
    scale: float = 1.0
    bias: Tensor | None = None
    magnitude: Tensor | None = None
    full: Tensor | None = None

    @property
    def rank(self) -> int:
        """Of the low-rank part; 0 without one."""
        return 0 if self.a is None else self.a.shape[0]

    @property
    def num_bytes(self) -> int:
        """Of all tensors as stored."""
        return sum(each.nbytes for each in self.tensors.values())

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those that there are, by attribute name."""
        named = {name: getattr(self, name) for name in ("a", "b", "bias", "magnitude", "full")}
        return {name: each for name, each in named.items() if each is not None}

    def delta(self, *, transposed: bool = False) -> Tensor:
        """``scale * B A`` in float32: ``[out, in]``, or ``[in, out]`` for an embedding's matrix."""
        assert self.a is not None
        assert self.b is not None
        product = (self.b.float() @ self.a.float()) * self.scale
        return product.T if transposed else product


def dora_gain(update: ModuleUpdate, weight: Tensor) -> Tensor:
    """DoRA's factor on each output: ``m / ||W + scale * B A||`` over a row (arXiv 2402.09353, 4.1).

    Args:
        update: Has a magnitude.
        weight: The base weight that will be multiplied, dequantised: ``[out, in]`` (an embedding's
            matrix transposed), on any device.

    Returns:
        ``[out]`` float32 on the weight's device.
    """
    assert update.magnitude is not None
    assert update.a is not None
    assert update.b is not None
    a = update.a.to(weight.device, torch.float32)
    b = update.b.to(weight.device, torch.float32)
    merged = torch.addmm(weight.float(), b, a, alpha=update.scale)
    norm = torch.linalg.vector_norm(merged, dim=1)
    return update.magnitude.to(weight.device, torch.float32) / norm
