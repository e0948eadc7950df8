"""Attention over the paged cache as an operator, which torch.compile calls without looking in."""

from __future__ import annotations

import torch
from torch import Tensor

from ferrule.kernels.shared import SharedPrefix
from ferrule.layers.attention import AttentionSpec
from ferrule.layers.rope import Rotation
from ferrule.runtime.kernel_attention import LayerAttend, Rows
from ferrule.runtime.kv_cache import LayerCache

_NO_WINDOW = -1
# Truth as a number that the compiler leaves open, which 0 and 1 are not.
_FALSE, _TRUE = 2, 3


class OpaqueAttend:
    """A ``LayerAttend`` for code that is compiled.

    One compiled graph serves every layer and every step, for nothing here is a constant to it:
    what a step lacks is an empty tensor, and how many single tokens, tiles and shared blocks there
    are is left open, zero and one included. (The scale is a constant, and equal in all layers of
    every model so far.)

    Args:
        attend: Of one layer and one step; rows to keep are not looked at.
    """

    def __init__(self, attend: LayerAttend) -> None:
        rows, window = attend.rows, attend.spec.window
        empty = rows.lengths.new_empty(0)
        tiles = rows.tiles if rows.tiles is not None else empty.view(0, 4)
        shared = rows.shared or SharedPrefix(
            starts=empty, table=rows.tables.new_empty(0), length=empty
        )
        self._keys = _alone(attend.cache.keys)
        self._values = _alone(attend.cache.values)
        self._cache_rows = _of_any_length(rows.cache_rows)
        self._slot_tables = _of_any_length(rows.slot_tables)
        self._tables = _of_any_length(rows.tables)
        self._lengths = _of_any_length(rows.lengths)
        self._tiles = _of_any_length(tiles)
        self._starts = _of_any_length(shared.starts)
        self._shared_table = _of_any_length(shared.table)
        self._shared_length = _of_any_length(shared.length)
        self._scale = attend.spec.scale
        self._window = _NO_WINDOW if window is None else window
        self._query_tile = rows.query_tile
        self._are_apart = _TRUE if rows.are_apart else _FALSE

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, rotation: Rotation | None = None, /
    ) -> Tensor:
        """What ``LayerAttend`` gives."""
        cos, sin = (None, None) if rotation is None else rotation
        return torch.ops.ferrule.attend(
            q,
            k,
            v,
            cos,
            sin,
            self._keys,
            self._values,
            self._cache_rows,
            self._slot_tables,
            self._tables,
            self._lengths,
            self._tiles,
            self._starts,
            self._shared_table,
            self._shared_length,
            self._scale,
            self._window,
            self._query_tile,
            self._are_apart,
        )


def _of_any_length(x: Tensor) -> Tensor:
    """A contiguous tensor for a graph that takes any length of it; 0 and 1 would be constants."""
    # Imported here, for it takes a second, and models of built-in layers do without.
    from torch._dynamo.decorators import mark_unbacked

    alias = _alone(x)
    mark_unbacked(alias, 0)
    return alias


def _alone(x: Tensor) -> Tensor:
    """The memory of a contiguous tensor, as one that looks the same wherever it comes from.

    Keys and values of all layers are views of one tensor: to write to one of several views the
    compiler would copy what they are views of. And where in its storage a tensor begins, and
    whether it was made in inference mode, would be constants of a graph.
    """
    # By way of the capsule: a tensor would wait for streams, and a step may be under capture.
    return torch.from_dlpack(torch.to_dlpack(x.view(-1))).view(x.shape)


@torch.library.custom_op(
    "ferrule::attend",
    mutates_args=("keys", "values"),
    schema="(Tensor q, Tensor k, Tensor v, Tensor? cos, Tensor? sin, Tensor(a!) keys, "
    "Tensor(b!) values, Tensor cache_rows, Tensor slot_tables, Tensor tables, Tensor lengths, "
    "Tensor tiles, Tensor starts, Tensor shared_table, Tensor shared_length, float scale, "
    "SymInt window, SymInt query_tile, SymInt are_apart) -> Tensor",
)
def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    keys: Tensor,
    values: Tensor,
    cache_rows: Tensor,
    slot_tables: Tensor,
    tables: Tensor,
    lengths: Tensor,
    tiles: Tensor,
    starts: Tensor,
    shared_table: Tensor,
    shared_length: Tensor,
    scale: float,
    window: int,
    query_tile: int,
    are_apart: int,
) -> Tensor:
    spec = AttentionSpec(
        num_heads=q.shape[1],
        num_kv_heads=k.shape[1],
        head_dim=q.shape[2],
        window=None if window == _NO_WINDOW else window,
        scale=scale,
    )
    shared = SharedPrefix(starts=starts, table=shared_table, length=shared_length)
    rows = Rows(
        cache_rows=cache_rows,
        tables=tables,
        lengths=lengths,
        slot_tables=slot_tables,
        tiles=tiles if tiles.shape[0] else None,
        query_tile=query_tile,
        shared=shared if shared_table.shape[0] else None,
        are_apart=are_apart == _TRUE,
    )
    attend = LayerAttend(spec=spec, cache=LayerCache(keys=keys, values=values), rows=rows)
    return attend(q, k, v, None if cos is None or sin is None else Rotation(cos, sin))


@_attend.register_fake
def _attended_like(q: Tensor, *_: object) -> Tensor:
    # The kernels write a contiguous tensor, whatever the strides of q are.
    return q.new_empty(q.shape)
