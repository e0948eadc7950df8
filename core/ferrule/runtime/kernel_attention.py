"""Attention over the paged cache by Triton kernels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ferrule.kernels.available import has_triton
from ferrule.kernels.shared import SharedPrefix
from ferrule.layers.attention import Attend, AttentionSpec
from ferrule.layers.rope import Rotation
from ferrule.runtime.kv_cache import KVCache, LayerCache

MAX_GROUP = 16
"""Query heads that share a key head in the decode kernel: the rows of its smallest tile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """A step's rows, as the kernels see them: those of single tokens first.

    Attributes:
        cache_rows: ``[rows]`` int64: where in a layer's cache, seen as rows, each token goes.
        tables: ``[decodes, blocks]`` int32 block ids of the single tokens' sequences.
        lengths: ``[decodes]`` int64 tokens in the cache, the new one included.
        slot_tables: ``[slots, blocks]`` int32 block ids by slot.
        tiles: ``[tiles, 4]``, what ``paged_prefill`` computes of the other rows; None: there are
            none.
        query_tile: Most queries in one of the tiles.
        shared: Blocks that many single tokens' sequences begin with.
        are_apart: Whether there are single tokens only, and none looks at what another writes: so
            one kernel may write and attend. (A prompt's last token may follow a block that another
            sequence fills in the same step.)
    """

    cache_rows: Tensor
    tables: Tensor
    lengths: Tensor
    slot_tables: Tensor
    tiles: Tensor | None = None
    query_tile: int = 128
    shared: SharedPrefix | None = None
    are_apart: bool = False


def fits_kernels(specs: list[AttentionSpec], device: torch.device) -> bool:
    """Whether the kernels compute these layers on this device."""
    return (
        device.type == "cuda"
        and has_triton()
        and all(spec.num_heads // spec.num_kv_heads <= MAX_GROUP for spec in specs)
    )


def attends(
    specs: list[AttentionSpec], cache: KVCache, rows: Rows, kept: Tensor | None = None
) -> list[Attend]:
    """One callable a layer, bound to its cache, for one step.

    Args:
        specs: Of the layers.
        cache: Theirs.
        rows: The step's.
        kept: Rows that count after the last layer; None: all.
    """
    last = len(specs) - 1
    return [
        LayerAttend(spec=spec, cache=layer, rows=rows, kept=kept if index == last else None)
        for index, (spec, layer) in enumerate(zip(specs, cache.layers, strict=True))
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerAttend:
    """The ``Attend`` of one layer in one step.

    Attributes:
        spec: Of the layer.
        cache: The layer's.
        rows: The step's.
        kept: ``[kept]`` int64: the rows to give; None: all of them.
    """

    spec: AttentionSpec
    cache: LayerCache
    rows: Rows
    kept: Tensor | None = None

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, rotation: Rotation | None = None, /
    ) -> Tensor:
        """Writes the step's keys and values, then attends: ``[rows, heads, head_dim]``."""
        # Imported here, for triton need not be installed where there is no CUDA device.
        from ferrule.kernels.paged_decode import NewTokens, paged_decode
        from ferrule.kernels.paged_prefill import paged_prefill
        from ferrule.kernels.rotate_write import rotate_write

        spec, cache, rows = self.spec, self.cache, self.rows
        shared = rows.shared if spec.window is None else None
        num_decodes = rows.lengths.shape[0]
        if rows.are_apart and shared is None:
            return paged_decode(
                q,
                cache.keys,
                cache.values,
                rows.tables,
                rows.lengths,
                scale=spec.scale,
                window=spec.window,
                new=NewTokens(keys=k, values=v, rotation=rotation, cache_rows=rows.cache_rows),
            )
        q = rotate_write(q, k, v, rotation, rows.cache_rows, cache.keys, cache.values)
        out = torch.empty_like(q)
        if num_decodes:
            paged_decode(
                q[:num_decodes],
                cache.keys,
                cache.values,
                rows.tables,
                rows.lengths,
                scale=spec.scale,
                window=spec.window,
                out=out[:num_decodes],
                shared=shared,
            )
        if rows.tiles is not None:
            paged_prefill(
                q,
                cache.keys,
                cache.values,
                out,
                rows.slot_tables,
                rows.tiles,
                scale=spec.scale,
                window=spec.window,
                query_tile=rows.query_tile,
            )
        return out if self.kept is None else out[self.kept]
