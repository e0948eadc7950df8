"""Products with a dense matrix on a GPU: own kernels for a few rows, the vendor's above."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ferrule.kernels.available import has_triton, runs_kernels
from ferrule.kernels.host.ops import runs_host_kernels
from ferrule.kernels.host.ops import silu_mul as host_silu_mul
from ferrule.kernels.tiles import Tiles, choose_tiles


def product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, add_to: Tensor | None = None
) -> Tensor:
    """``x @ weight.T + bias``, added to ``add_to`` if that is given, which takes the result.

    Args:
        x: ``[rows, in]``.
        weight: ``[out, in]``, contiguous.
        bias: ``[out]``.
        add_to: ``[rows, out]``, contiguous.

    Returns:
        ``[rows, out]``.
    """
    if torch.compiler.is_compiling():
        from ferrule.kernels.product_op import product_op

        return product_op(x, weight, bias, add_to)
    if (tiles := _tiles(x, weight)) is not None:
        from ferrule.kernels.skinny import skinny_product

        return skinny_product(x, weight, bias, add_to=add_to, tiles=tiles)
    if add_to is None:
        return F.linear(x, weight, bias)
    if bias is None:
        return add_to.addmm_(x, weight.t())
    return add_to.add_(F.linear(x, weight, bias))


def gated_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``silu(gate) * up`` of a matrix that holds gates above and ups below.

    Args:
        x: ``[rows, in]``.
        weight: ``[2 * width, in]``, contiguous.
        bias: ``[2 * width]``.

    Returns:
        ``[rows, width]``.
    """
    if torch.compiler.is_compiling():
        from ferrule.kernels.product_op import gated_product_op

        return gated_product_op(x, weight, bias)
    if (tiles := _tiles(x, weight)) is not None:
        from ferrule.kernels.skinny import skinny_product

        return skinny_product(x, weight, bias, gated=True, tiles=tiles)
    return silu_mul(F.linear(x, weight, bias))


def silu_mul(x: Tensor) -> Tensor:
    """``silu(gate) * up``: ``[..., 2 * width]``, gates first, to ``[..., width]``."""
    if runs_kernels(x) and x.dim() == 2 and x.is_contiguous():
        from ferrule.kernels import gated

        return gated.silu_mul(x)
    if runs_host_kernels(x):
        return host_silu_mul(x)
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def _tiles(x: Tensor, weight: Tensor) -> Tiles | None:
    """How the kernel for a few rows cuts this; None: it is the vendor's.

    float32 is for checks, not for speed.
    """
    fits = x.is_cuda and x.dim() == 2 and x.dtype is not torch.float32 and x.stride(1) == 1
    if not fits or not has_triton():
        return None
    return choose_tiles(x.shape[0], *weight.shape)
