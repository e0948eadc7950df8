"""The adapters' parts for one product, and what they add to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ferrule.kernels.beside import beside, join
from ferrule.kernels.product import silu_mul
from ferrule.layers.lora import Copy, LoraChunks, LoraMode, LoraPart, LoraRows, LoraState, PoolSizes

_RANK_TILE = 16
_ROWS_BESIDE = 128
"""Most rows that gain by it (docs/design/performance.md)."""


class LoraPool:
    """Low-rank products, gains and biases of a few adapters beside one stored product.

    Args:
        state: Of the model.
        sizes: How many adapters of which rank.
        in_features: Columns.
        parts: Rows by canonical name of the weight, in the order of the output.
    """

    def __init__(
        self, state: LoraState, sizes: PoolSizes, in_features: int, parts: Mapping[str, int]
    ) -> None:
        self.state = state
        self.sizes = sizes
        self.in_features = in_features
        self.parts = list(parts)
        self.width = 0
        self.columns: list[slice] = []
        for rows in parts.values():
            self.columns.append(slice(self.width, self.width + rows))
            self.width += rows
        # Whole tiles of the tensor cores, whatever device this is.
        self._rank = -(-sizes.rank // _RANK_TILE) * _RANK_TILE
        self._tiles: Tensor | None = None
        self._is_touched = self._is_scaled = False
        # By slot: [slots, parts, rank, in], [slots, out, rank], and [slots, out] for the others.
        self.a: Tensor | None = None
        self.b: Tensor | None = None
        self.ranks: Tensor | None = None
        self.gains: Tensor | None = None
        self.biases: Tensor | None = None
        self._ranks = [[0] * len(self.parts) for _ in range(sizes.num_slots)]
        self._scaled: list[set[int]] = [set() for _ in range(sizes.num_slots)]
        self._own: list[dict[int, Tensor]] = [{} for _ in range(sizes.num_slots)]

    @property
    def is_active(self) -> bool:
        """Whether the step's rows may want something here."""
        if self.state.mode is LoraMode.OFF:
            return False
        return self._is_touched or self.state.mode is LoraMode.OWN

    @property
    def scales(self) -> bool:
        """Whether the step's rows may want gains or biases, or whole weights."""
        mode = self.state.mode
        return mode is LoraMode.OWN or (mode is LoraMode.SCALED and self._is_scaled)

    def allocate(self, part: LoraPart) -> int:
        """Makes room for what such a part needs; gives the bytes that it took."""
        sizes, made = self.sizes, list[Tensor]()

        def room(shape: tuple[int, ...], fill: int, dtype: torch.dtype) -> Tensor:
            shape = (sizes.num_slots, *shape)
            made.append(torch.full(shape, fill, dtype=dtype, device=sizes.device))
            return made[-1]

        # Gains without low-rank products do not occur, and a bias alone hardly ever.
        if self.a is None and (part.a is not None or part.bias is not None):
            self.a = room((len(self.parts), self._rank, self.in_features), 0, sizes.dtype)
            self.b = room((self.width, self._rank), 0, sizes.dtype)
            self.ranks = room((len(self.parts),), 0, torch.int32)
        if (part.gain is not None or part.bias is not None) and self.gains is None:
            self.gains = room((self.width,), 1, torch.float32)
            self.biases = room((self.width,), 0, torch.float32)
        return sum(tensor.nbytes for tensor in made)

    def touch(self, part: LoraPart) -> bool:
        """Has the layer do what such a part needs; says whether it did less until now."""
        before = self._is_touched, self._is_scaled
        is_scaled = part.gain is not None or part.bias is not None
        self._is_touched |= is_scaled or part.a is not None
        self._is_scaled |= is_scaled
        return before != (self._is_touched, self._is_scaled)

    def place(self, index: int, slot: int, part: LoraPart | None) -> list[Copy]:
        """What is to be copied for a slot's part, after ``allocate``."""
        part = part or LoraPart()
        rank = 0 if part.a is None else part.a.shape[0]
        self._ranks[slot][index] = rank
        self._own[slot].pop(index, None)
        self._scaled[slot].discard(index)
        if part.gain is not None or part.bias is not None:
            self._scaled[slot].add(index)
        if part.own is not None:
            self._own[slot][index] = part.own
        copies: list[Copy] = []
        if self.ranks is not None:
            copies.append((self.ranks[slot, index], torch.tensor(rank, dtype=torch.int32)))
        columns = self.columns[index]
        if part.a is not None and part.b is not None and self.a is not None and self.b is not None:
            copies.append((self.a[slot, index, :rank], part.a))
            copies.append((self.b[slot, columns, :rank], part.b))
        if self.gains is not None and self.biases is not None:
            rows = columns.stop - columns.start
            gain = torch.ones(rows) if part.gain is None else part.gain
            bias = torch.zeros(rows) if part.bias is None else part.bias
            copies += [(self.gains[slot, columns], gain), (self.biases[slot, columns], bias)]
        return copies

    def begin(self, x: Tensor) -> Tensor | None:
        """Launches what needs ``x`` alone, so that it runs beside the model's own product.

        Where a product of many rows fills the device, nothing is gained beside it.

        Args:
            x: ``[tokens, ..., in]``.

        Returns:
            What ``add`` or ``add_gated`` takes.
        """
        chunks = self.state.rows(x.shape[0]).chunks
        if chunks is None or x.dim() > 2 or x.shape[0] > _ROWS_BESIDE:
            return None
        with beside(x.device):
            return self._shrunk(x, chunks)

    def add(self, x: Tensor, y: Tensor, begun: Tensor | None = None) -> Tensor:
        """Adds to ``y`` what the adapters of its rows have.

        Args:
            x: ``[tokens, ..., in]``.
            y: ``[tokens, ..., out]``, the product without adapters; takes the result, unless
                a row's adapter has more outputs than there are.
            begun: What ``begin`` gave.
        """
        rows = self.state.rows(x.shape[0])
        if rows.chunks is not None:
            self._add_by_kernels(x, y, rows.chunks, begun)
            return y
        self._add_plain(x, y, rows)
        return self._widened(x, y, rows) if self.state.mode is LoraMode.OWN else y

    def add_gated(self, x: Tensor, y: Tensor, begun: Tensor | None = None) -> Tensor:
        """``silu(gate) * up`` of gates and ups, with what the adapters of the rows add to them.

        Args:
            x: ``[tokens, ..., in]``.
            y: ``[tokens, ..., out]``, gates first: the product without adapters; may be changed.
            begun: What ``begin`` gave.

        Returns:
            ``[tokens, ..., out / 2]``.
        """
        chunks = self.state.rows(x.shape[0]).chunks
        if chunks is None or x.dim() > 2 or len(self.parts) != 2:
            return silu_mul(self.add(x, y, begun))
        from ferrule.kernels.lora_gated import expand_gated

        low = self._shrunk(x, chunks, begun)
        _, b, ranks = self._low_rank()
        return expand_gated(low, y, b, ranks, chunks.slots, chunks.rows, *self._gains())

    def _add_by_kernels(
        self, x: Tensor, y: Tensor, chunks: LoraChunks, begun: Tensor | None
    ) -> None:
        # Imported here, for triton need not be installed where there is no CUDA device.
        from ferrule.kernels.lora_expand import column_tiles, expand

        _, b, ranks = self._low_rank()
        if self._tiles is None:
            widths = [columns.stop - columns.start for columns in self.columns]
            self._tiles = column_tiles(widths, self.sizes.device)
        # A token may come as several rows, such as one for each head.
        x, y = (each.flatten(1, -2) if each.dim() > 2 else each.unsqueeze(1) for each in (x, y))
        for place in range(x.shape[1]):
            low = self._shrunk(x[:, place], chunks, begun)
            gains = self._gains()
            expand(low, y[:, place], b, ranks, self._tiles, chunks.slots, chunks.rows, *gains)

    def _shrunk(self, x: Tensor, chunks: LoraChunks, begun: Tensor | None = None) -> Tensor:
        if begun is not None:
            join(x.device)
            return begun
        from ferrule.kernels.lora_shrink import shrink

        a, _, ranks = self._low_rank()
        return shrink(x, a, ranks, chunks.slots, chunks.rows)

    def _low_rank(self) -> tuple[Tensor, Tensor, Tensor]:
        assert self.a is not None
        assert self.b is not None
        assert self.ranks is not None
        return self.a, self.b, self.ranks

    def _gains(self) -> tuple[Tensor | None, Tensor | None]:
        return (self.gains, self.biases) if self.scales else (None, None)

    def _add_plain(self, x: Tensor, y: Tensor, rows: LoraRows) -> None:
        for slot, index in rows.groups:
            parts = self._touched(slot)
            inputs = x[index] if parts else x
            for part in parts:
                columns = self.columns[part]
                y[index, ..., columns] = self._part(slot, part, inputs, y[index, ..., columns])

    def _touched(self, slot: int) -> list[int]:
        """The parts for which a slot's adapter has anything."""
        return [
            part
            for part, rank in enumerate(self._ranks[slot])
            if rank or part in self._own[slot] or part in self._scaled[slot]
        ]

    def _widened(self, x: Tensor, y: Tensor, rows: LoraRows) -> Tensor:
        """With the outputs that adapters add; -inf for rows that have none (a head's tokens)."""
        owns = [(self._own[slot].get(0), index) for slot, index in rows.groups]
        added = [(own[self.width :], index) for own, index in owns if own is not None]
        most = max((len(weight) for weight, _ in added), default=0)
        if len(self.parts) > 1 or most == 0:
            return y
        y = F.pad(y, (0, most), value=-torch.inf)
        for weight, index in added:
            y[index, ..., self.width : self.width + len(weight)] = F.linear(x[index], weight)
        return y

    def _part(self, slot: int, part: int, x: Tensor, y: Tensor) -> Tensor:
        """One part's outputs for rows of one adapter: ``[rows, ..., in]`` and ``[..., out]``."""
        own, rank = self._own[slot].get(part), self._ranks[slot][part]
        columns = self.columns[part]
        if own is not None:
            y = F.linear(x, own[: columns.stop - columns.start])
        if rank and self.a is not None and self.b is not None:
            low = F.linear(x, self.a[slot, part, :rank])
            y = y + F.linear(low, self.b[slot, columns, :rank])
        if part in self._scaled[slot] and self.gains is not None and self.biases is not None:
            scaled = self.gains[slot, columns] * y.float() + self.biases[slot, columns]
            y = scaled.to(y.dtype)
        return y


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolSite:
    """One named weight of a product.

    Attributes:
        pool: Of the product.
        index: Which of its parts.
        read: Gives the model's own weight and bias.
    """

    pool: LoraPool
    index: int
    read: Callable[[], tuple[Tensor, Tensor | None]]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the model's weight."""
        columns = self.pool.columns[self.index]
        return columns.stop - columns.start, self.pool.in_features

    @property
    def gathers(self) -> bool:
        """It is multiplied."""
        return False

    def base(self) -> tuple[Tensor, Tensor | None]:
        """The model's own weight ``[out, in]``, dequantised, and its bias ``[out]``."""
        return self.read()

    def allocate(self, part: LoraPart) -> int:
        """Makes room for what such a part needs; gives the bytes that it took."""
        return self.pool.allocate(part)

    def touch(self, part: LoraPart) -> bool:
        """Has the layer do what such a part needs; says whether it did less until now."""
        return self.pool.touch(part)

    def place(self, slot: int, part: LoraPart | None) -> list[Copy]:
        """Takes a part; returns copies still to be made."""
        return self.pool.place(self.index, slot, part)
