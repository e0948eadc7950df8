"""A linear layer that multiplies by whatever format its weights are in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from ferrule.kernels.product import silu_mul
from ferrule.layers.lora import LoraSite, LoraState, PoolSizes
from ferrule.layers.lora_pool import LoraPool, PoolSite
from ferrule.quantization.format import Format, MultipliesBeside, Storage


class Linear(nn.Module):
    """``y = x W^T + b``, with several stored matrices stacked into one product if wished.

    ``Linear(64, 64)`` at path ``a.o_proj`` takes ``a.o_proj.weight``.
    ``Linear(64, {"q_proj": 64, "k_proj": 16})`` at path ``a.qkv_proj`` takes ``a.q_proj.weight``
    and ``a.k_proj.weight`` and gives their outputs side by side. Neighbouring parts in formats of
    one layout share a storage and a product; others (Q4_K_M keeps v in Q6_K) run beside them.

    Args:
        in_features: Columns.
        out_features: Rows, or rows by part name, in the order of the output.
        bias: Whether each part adds a bias.
    """

    def __init__(
        self, in_features: int, out_features: int | Mapping[str, int], *, bias: bool = False
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.is_fused = not isinstance(out_features, int)
        self.parts = {"": out_features} if isinstance(out_features, int) else dict(out_features)
        self.out_features = sum(self.parts.values())
        self.has_bias = bias
        self.bias: Tensor | None = None
        self.storages: list[Storage] = []
        self._homes: dict[str, tuple[Storage, int]] = {}
        self._bias_rows: dict[str, int] = {}
        self._names: list[tuple[str, int]] = []
        self.lora: LoraPool | None = None

    def forward(self, x: Tensor, add_to: Tensor | None = None) -> Tensor:
        """``[..., in_features] -> [..., out_features]``.

        Args:
            x: What is multiplied.
            add_to: ``[..., out_features]``: added to the product, and may take the result.
        """
        lora = self.lora
        if lora is None or not lora.is_active:
            return self._multiply(x, add_to)
        begun = lora.begin(x)
        if not lora.scales:
            return lora.add(x, self._multiply(x, add_to), begun)
        y = lora.add(x, self._multiply(x, None), begun)
        return y if add_to is None else add_to.add_(y)

    def _multiply(self, x: Tensor, add_to: Tensor | None) -> Tensor:
        first, *others = self.storages
        if not others:
            return first.multiply(x, self.bias, add_to)
        # The compiler would copy the parts of an output that several write into.
        is_plain = x.dim() == 2 and not torch.compiler.is_compiling()
        if is_plain and isinstance(first, MultipliesBeside) and self._are_of_a_kind:
            out = x.new_empty(x.shape[0], self.out_features) if add_to is None else add_to
            first.multiply_beside(others, x, out, self.bias, adds=add_to is not None)
            return out
        y = torch.cat([storage.multiply(x) for storage in self.storages], dim=-1)
        if self.bias is not None:
            y = y + self.bias
        return y if add_to is None else add_to + y

    @property
    def _are_of_a_kind(self) -> bool:
        return len({type(storage) for storage in self.storages}) == 1

    def gated(self, x: Tensor) -> Tensor:
        """``silu(gate) * up`` of a product whose first half is the gate.

        ``[..., in_features] -> [..., out_features / 2]``.
        """
        if self.lora is not None and self.lora.is_active:
            begun = self.lora.begin(x)
            return self.lora.add_gated(x, self._multiply(x, None), begun)
        if len(self.storages) == 1:
            return self.storages[0].multiply_gated(x, self.bias)
        return silu_mul(self._multiply(x, None))

    def weight_shapes(self, path: str) -> dict[str, tuple[int, ...]]:
        """Every part's weight, and its bias if there is one."""
        beside = path.rpartition(".")[0]
        self._names = [
            (".".join(filter(None, (beside, part))) if self.is_fused else path, rows)
            for part, rows in self.parts.items()
        ]
        shapes: dict[str, tuple[int, ...]] = {}
        for name, rows in self._names:
            shapes[f"{name}.weight"] = (rows, self.in_features)
            if self.has_bias:
                shapes[f"{name}.bias"] = (rows,)
        return shapes

    def allocate(
        self, formats: Mapping[str, Format], *, dtype: torch.dtype, device: torch.device
    ) -> None:
        """One storage for each run of parts in formats of one layout."""
        runs: list[list[tuple[str, int]]] = []
        layout = None
        for name, rows in self._names:
            format = formats[f"{name}.weight"]
            if format.layout != layout:
                runs.append([])
            runs[-1].append((name, rows))
            layout = format.layout
        for run in runs:
            self._allocate_run(run, formats[f"{run[0][0]}.weight"], dtype, device)
        if self.has_bias:
            self.bias = torch.empty(self.out_features, dtype=dtype, device=device)
            start = 0
            for name, rows in self._names:
                self._bias_rows[f"{name}.bias"] = start
                start += rows

    def _allocate_run(
        self,
        run: list[tuple[str, int]],
        format: Format,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        num_rows = sum(rows for _, rows in run)
        storage = format.allocate(num_rows, self.in_features, dtype=dtype, device=device)
        self.storages.append(storage)
        start = 0
        for name, rows in run:
            self._homes[f"{name}.weight"] = (storage, start)
            start += rows

    def write(self, name: str, data: Tensor, format: Format) -> None:
        """Stores one part's weight or bias."""
        if name in self._homes:
            storage, start = self._homes[name]
            storage.write(start, data, format)
            return
        assert self.bias is not None
        start = self._bias_rows[name]
        values = format.dequantize(data).reshape(-1)
        self.bias[start : start + values.shape[0]].copy_(values)

    def finish(self) -> None:
        """Lets every storage repack."""
        for storage in self.storages:
            storage.finish()

    def enable_lora(self, path: str, state: LoraState, sizes: PoolSizes) -> dict[str, LoraSite]:
        """Each part's place for adapters; see ``TakesLora``."""
        parts = dict(self._names)
        self.lora = pool = LoraPool(state, sizes, self.in_features, parts)
        return {
            name: PoolSite(pool=pool, index=index, read=partial(self._part, name))
            for index, name in enumerate(parts)
        }

    def _part(self, name: str) -> tuple[Tensor, Tensor | None]:
        """One part's weight, dequantised, and its bias."""
        rows = dict(self._names)[name]
        storage, start = self._homes[f"{name}.weight"]
        weight = storage.dense()[start : start + rows]
        if self.bias is None:
            return weight, None
        start = self._bias_rows[f"{name}.bias"]
        return weight, self.bias[start : start + rows]

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        parts = ", ".join(f"{name or 'out'}={rows}" for name, rows in self.parts.items())
        return f"in={self.in_features}, {parts}, bias={self.has_bias}"
