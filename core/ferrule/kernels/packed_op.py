"""Products with packed weights as operators, which torch.compile calls and does not look into."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ferrule.kernels.packed_weight import PackedWeight, packed_multiply, packed_multiply_gated
from ferrule.kernels.plane_layout import Planes


def packed_multiply_op(
    x: Tensor, weight: PackedWeight, bias: Tensor | None = None, add_to: Tensor | None = None
) -> Tensor:
    """``packed_multiply`` for code that is compiled."""
    planes = list(weight.planes)
    if add_to is None:
        return torch.ops.ferrule.packed_multiply(
            x, planes, weight.copy, weight.type, weight.num_rows, bias
        )
    torch.ops.ferrule.packed_multiply_add(
        x, planes, weight.copy, weight.type, weight.num_rows, bias, add_to
    )
    return add_to


def packed_multiply_gated_op(x: Tensor, weight: PackedWeight, bias: Tensor | None = None) -> Tensor:
    """``packed_multiply_gated`` for code that is compiled."""
    return torch.ops.ferrule.packed_multiply_gated(
        x, list(weight.planes), weight.copy, weight.type, weight.num_rows, bias
    )


_WEIGHT = "Tensor x, Tensor[] planes, Tensor? copy, str type, int num_rows, Tensor? bias"


@torch.library.custom_op(
    "ferrule::packed_multiply", mutates_args=(), schema=f"({_WEIGHT}) -> Tensor"
)
def _multiply(x: Tensor, *rest: Any) -> Tensor:
    return packed_multiply(x, *_weight_and_bias(*rest))


@_multiply.register_fake
def _multiply_like(
    x: Tensor, planes: Any, copy: Any, type: Any, num_rows: int, bias: Any
) -> Tensor:
    return x.new_empty(*x.shape[:-1], num_rows)


# An operator may not return what it was given, so this one returns nothing.
@torch.library.custom_op(
    "ferrule::packed_multiply_add",
    mutates_args=("add_to",),
    schema=f"({_WEIGHT}, Tensor(a!) add_to) -> ()",
)
def _multiply_add(x: Tensor, *rest: Any) -> None:
    *packed, add_to = rest
    packed_multiply(x, *_weight_and_bias(*packed), add_to)


@_multiply_add.register_fake
def _multiply_add_like(*_: Any) -> None:
    pass


@torch.library.custom_op(
    "ferrule::packed_multiply_gated", mutates_args=(), schema=f"({_WEIGHT}) -> Tensor"
)
def _multiply_gated(x: Tensor, *rest: Any) -> Tensor:
    return packed_multiply_gated(x, *_weight_and_bias(*rest))


@_multiply_gated.register_fake
def _multiply_gated_like(
    x: Tensor, planes: Any, copy: Any, type: Any, num_rows: int, bias: Any
) -> Tensor:
    return x.new_empty(*x.shape[:-1], num_rows // 2)


def _weight_and_bias(
    planes: list[Tensor], copy: Tensor | None, type: str, num_rows: int, bias: Tensor | None
) -> tuple[PackedWeight, Tensor | None]:
    weight = PackedWeight(planes=Planes(*planes), type=type, num_rows=num_rows, copy=copy)
    return weight, bias
