"""Attention over the paged cache in plain torch, on any device."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

from ferrule.kernels.host import ops
from ferrule.kernels.host.ops import runs_host_kernels
from ferrule.layers.attention import Attend, AttentionSpec
from ferrule.layers.rope import Rotation, rotate
from ferrule.runtime.batch import Batch, DecodeRows, PrefillRows
from ferrule.runtime.kv_cache import KVCache, LayerCache

KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""torch's kernels to choose from: all but cuDNN's, which makes a new plan (60 ms on an H100) for
every length that it has not met."""


class PagedAttention:
    """Makes one ``attend`` for each layer, bound to that layer's cache.

    Args:
        specs: The attention layers.
        cache: Their keys and values.
    """

    def __init__(self, specs: list[AttentionSpec], cache: KVCache) -> None:
        self.specs = specs
        self.cache = cache
        self.windows = frozenset(spec.window for spec in specs)
        self.dtype = cache.layers[0].keys.dtype

    def attends(self, batch: Batch) -> list[Attend]:
        """One callable a layer, for this step."""
        return [
            partial(_attend, spec, layer, batch)
            for spec, layer in zip(self.specs, self.cache.layers, strict=True)
        ]


def _attend(
    spec: AttentionSpec,
    cache: LayerCache,
    batch: Batch,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rotation: Rotation | None = None,
) -> Tensor:
    """Writes the step's keys and values, then attends row group by row group."""
    if rotation is not None and not batch.prefills and _fits_host(q, k, v):
        return _decode_on_host(spec, cache, batch, q, k, v, rotation)
    if rotation is not None:
        # In one go: half as many operations.
        both = rotate(torch.cat((q, k), dim=1), rotation)
        q, k = both.split((q.shape[1], k.shape[1]), dim=1)
    cache.keys.view(-1, *k.shape[1:]).index_copy_(0, batch.cache_rows, k)
    cache.values.view(-1, *v.shape[1:]).index_copy_(0, batch.cache_rows, v)
    if len(batch.decodes) == 1 and not batch.prefills:
        return _decode(spec, cache, batch.decodes[0], q)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for rows in batch.decodes:
        out[rows.rows] = _decode(spec, cache, rows, q[rows.rows])
    for rows in batch.prefills:
        part = rows.rows
        out[part] = _prefill(spec, cache, rows, q[part], k[part], v[part])
    return out


def _fits_host(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether a step of decode alone can go to the CPU's own kernels."""
    dim = q.shape[-1]
    return (
        runs_host_kernels(q)
        and dim % 8 == 0
        and q.stride()[1:] == (dim, 1)
        and k.stride()[1:] == (dim, 1)
        and v.stride() == k.stride()
    )


def _decode_on_host(
    spec: AttentionSpec,
    cache: LayerCache,
    batch: Batch,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rotation: Rotation,
) -> Tensor:
    cos, sin = rotation
    ops.write_cache(k, v, cos, sin, batch.cache_rows, cache.keys, cache.values)
    if len(batch.decodes) == 1:
        return _attend_rows(spec, cache, batch.decodes[0], q, rotation, batch.positions)
    parts = [
        _attend_rows(
            spec,
            cache,
            group,
            q[group.rows],
            Rotation(cos[group.rows], sin[group.rows]),
            batch.positions[group.rows],
        )
        for group in batch.decodes
    ]
    return torch.cat(parts)


def _attend_rows(
    spec: AttentionSpec,
    cache: LayerCache,
    group: DecodeRows,
    q: Tensor,
    rotation: Rotation,
    positions: Tensor,
) -> Tensor:
    return ops.attend_decode(
        q,
        *rotation,
        positions,
        group.tables.contiguous(),
        cache.keys,
        cache.values,
        scale=spec.scale,
        window=spec.window,
    )


def _decode(spec: AttentionSpec, cache: LayerCache, rows: DecodeRows, q: Tensor) -> Tensor:
    """One query a sequence: ``[rows, heads, head_dim] -> [rows, heads, head_dim]``.

    The query heads that share a key head become the rows of one small attention, so keys need
    no copies for grouping.
    """
    num_rows, heads, dim = q.shape
    keys, values = _gather(cache.keys, rows.tables), _gather(cache.values, rows.tables)
    grouped = q.reshape(num_rows, spec.num_kv_heads, heads // spec.num_kv_heads, dim)
    mask = rows.masks.get(spec.window)
    if mask is None:
        span = rows.spans[spec.window]
        keys, values = keys[:, :, span], values[:, :, span]
    out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=spec.scale)
    return out.reshape(num_rows, heads, dim)


def _gather(cache: Tensor, tables: Tensor) -> Tensor:
    """``[rows, blocks]`` of a cache as ``[rows, kv_heads, length, head_dim]``."""
    blocks = cache.index_select(0, tables.view(-1))
    return blocks.view(tables.shape[0], -1, *cache.shape[2:]).transpose(1, 2)


def _prefill(
    spec: AttentionSpec, cache: LayerCache, rows: PrefillRows, q: Tensor, k: Tensor, v: Tensor
) -> Tensor:
    """A chunk of one sequence: ``[tokens, heads, head_dim] -> [tokens, heads, head_dim]``."""
    mask = rows.masks.get(spec.window)
    if rows.start > 0:
        end = rows.start + q.shape[0]
        k = cache.keys.index_select(0, rows.blocks).flatten(0, 1)[:end]
        v = cache.values.index_select(0, rows.blocks).flatten(0, 1)[:end]
    groups = spec.num_heads // spec.num_kv_heads
    if q.is_cuda and mask is not None and groups > 1:
        # The one CUDA kernel that takes a mask takes no groups; torch would fall back to keeping
        # the scores of all heads, gigabytes at long contexts.
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None],
        k.transpose(0, 1)[None],
        v.transpose(0, 1)[None],
        attn_mask=mask,
        is_causal=mask is None,
        scale=spec.scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out[0].transpose(0, 1)
