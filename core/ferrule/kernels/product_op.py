"""Products as operators, which torch.compile calls and does not look into.

An operator costs some 10 us more of the host's time than the function, so only what is compiled
calls it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def product_op(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, add_to: Tensor | None = None
) -> Tensor:
    """``kernels.product.product`` for code that is compiled."""
    if add_to is None:
        return torch.ops.ferrule.product(x, weight, bias)
    torch.ops.ferrule.add_product(x, weight, bias, add_to)
    return add_to


def gated_product_op(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``kernels.product.gated_product`` for code that is compiled."""
    return torch.ops.ferrule.gated_product(x, weight, bias)


@torch.library.custom_op(
    "ferrule::product",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
)
def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    from ferrule.kernels.product import product

    return product(x, weight, bias)


@_product.register_fake
def _product_like(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


# An operator may not return what it was given, so this one returns nothing.
@torch.library.custom_op(
    "ferrule::add_product",
    mutates_args=("add_to",),
    schema="(Tensor x, Tensor weight, Tensor? bias, Tensor(a!) add_to) -> ()",
)
def _add_product(x: Tensor, weight: Tensor, bias: Tensor | None, add_to: Tensor) -> None:
    from ferrule.kernels.product import product

    product(x, weight, bias, add_to)


@_add_product.register_fake
def _add_product_like(x: Tensor, weight: Tensor, bias: Tensor | None, add_to: Tensor) -> None:
    pass


@torch.library.custom_op(
    "ferrule::gated_product",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias) -> Tensor",
)
def _gated_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    from ferrule.kernels.product import gated_product

    return gated_product(x, weight, bias)


@_gated_product.register_fake
def _gated_product_like(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0] // 2)
