"""Decoder layers with other people's arithmetic in them, compiled once for all of a model's layers.

The built-in layers are written with fused kernels already, and are left alone. Plain torch would
launch a kernel for every addition in it; torch.compile fuses those, and calls products and
attention as operators (product_op.py, attend_op.py).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ferrule.kernels.packed_weight import PackedWeight
from ferrule.layers.attention import AttentionSpec
from ferrule.layers.lora import LoraState
from ferrule.runtime.attend_op import OpaqueAttend
from ferrule.runtime.kernel_attention import LayerAttend

MOST_GRAPHS = 8
"""Of one class of layers. One row and more rows take a graph each; a model may have layers of a few
kinds, but one that would be compiled for each layer anew is not worth the wait."""

_log = logging.getLogger(__name__)


def compile_layers(
    model: nn.Module,
    *,
    backend: str | Callable[..., Any] = "inductor",
    lora: LoraState | None = None,
) -> int:
    """Has a model's layers compiled when they are first called, if they are not all built in.

    A model whose layers cannot be compiled runs them as they are: a warning says why.

    Args:
        model: Loaded.
        backend: Of torch.compile.
        lora: What the model's layers know of adapters. Steps with adapters run layers as they are:
            compiled code for them as well would be compiled anew whenever a layer is touched.

    Returns:
        How many layers: 0 if all are built in, or none looks like a decoder's.
    """
    layers = [
        layer
        for layer in _decoder_layers(model)
        # A forward of the object's own is not one for all of its class.
        if not _is_built_in(layer) and "forward" not in vars(layer)
    ]
    if layers:
        _CompiledLayers(layers, backend, lora).install()
    return len(layers)


def _decoder_layers(model: nn.Module) -> list[nn.Module]:
    """What stands in a list of modules and has an attention, by its ``spec``, in it."""
    found: dict[nn.Module, None] = {}
    inside: set[nn.Module] = set()
    for module in model.modules():
        if not isinstance(module, nn.ModuleList) or module in inside:
            continue
        for layer in module:
            specs = [getattr(part, "spec", None) for part in layer.modules()]
            if any(isinstance(spec, AttentionSpec) for spec in specs):
                found[layer] = None
                inside.update(layer.modules())
    return list(found)


def _is_built_in(layer: nn.Module) -> bool:
    return all(_computes_as_built_in(type(part)) for part in layer.modules())


def _computes_as_built_in(kind: type) -> bool:
    """Whether a class, or the one whose methods it inherits, is ours or only holds others."""
    for ancestor in kind.__mro__:
        module = ancestor.__module__
        if ancestor is nn.Module or module == "torch.nn.modules.container":
            return True
        if module.startswith("ferrule.layers."):
            return True
        if any(callable(value) and _is_method(name) for name, value in vars(ancestor).items()):
            return False
    return False


def _is_method(name: str) -> bool:
    return name == "__call__" or not name.startswith("__")


class _CompiledLayers:
    """Layers that are compiled together, or not at all.

    Args:
        layers: Of one model.
        backend: Of torch.compile.
        lora: What the layers know of adapters.
    """

    def __init__(
        self,
        layers: list[nn.Module],
        backend: str | Callable[..., Any],
        lora: LoraState | None = None,
    ) -> None:
        self._layers = layers
        self._lora = lora
        self._forwards = {
            kind: torch.compile(
                _own_copy(kind.forward), fullgraph=True, dynamic=True, backend=backend
            )
            for kind in dict.fromkeys(type(layer) for layer in layers)
        }

    def install(self) -> None:
        """Puts the compiled code in front of each layer's own ``forward``; names stay."""
        for layer in self._layers:
            layer.forward = partial(self._run, layer)
            _fix_sizes(layer)

    def _run(self, layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        if self._lora is not None and self._lora.mode:
            return type(layer).forward(layer, *args, **kwargs)
        try:
            with _compiler_settings():
                out = self._forwards[type(layer)](
                    layer,
                    *map(_traceable, args),
                    **{name: _traceable(value) for name, value in kwargs.items()},
                )
        except FailOnRecompileLimitHit:
            self._give_up(layer, f"{MOST_GRAPHS} graphs do not do for all of them, see above")
        except TorchDynamoException as error:
            # Raised while it compiles, so nothing of this call has run.
            self._give_up(layer, _reason(error))
        else:
            kept = _kept_rows(*args, *kwargs.values())
            return out if kept is None else out[kept]
        return layer.forward(*args, **kwargs)

    def _give_up(self, layer: nn.Module, reason: str) -> None:
        for other in self._layers:
            del other.forward
        _log.warning(
            "%s cannot be compiled, so the layers run as they are, which takes longer: %s",
            type(layer).__qualname__,
            reason,
        )


def _own_copy(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose code is nobody else's.

    torch keeps what it compiled with the code. So it goes when the model goes, and models of one
    class do not use up each other's number of graphs.
    """
    if not isinstance(function, FunctionType):
        return function
    copy = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _fix_sizes(layer: nn.Module) -> None:
    """Says of weights that are no parameters that their sizes are constants."""
    from torch._dynamo import mark_static

    for part in layer.modules():
        for storage in getattr(part, "storages", []):
            for value in tree_leaves(_parts(storage)):
                if isinstance(value, Tensor):
                    mark_static(value)


def _parts(storage: object) -> list[object]:
    """What a storage holds, and what a packed weight in it holds."""
    held = list(vars(storage).values())
    packed = [value for value in held if isinstance(value, PackedWeight)]
    return [*held, *(part for value in packed for part in (value.planes, value.copy))]


@contextmanager
def _compiler_settings() -> Generator[None]:
    """What makes one graph do for all layers and sizes."""
    from torch._dynamo import config
    from torch.fx.experimental import _config as symbolic

    tracing = config.patch(
        recompile_limit=MOST_GRAPHS,
        accumulated_recompile_limit=MOST_GRAPHS,
        # An epsilon is a constant, and not one more argument that is read on the host.
        specialize_float=True,
    )
    # Sizes that happen to be equal (8 rows, 8 key heads) are not taken for one.
    with tracing, symbolic.patch(use_duck_shape=False):  # pyright: ignore[reportAttributeAccessIssue]
        yield


def _traceable(value: Any) -> Any:
    return OpaqueAttend(value) if isinstance(value, LayerAttend) else value


def _kept_rows(*args: object) -> Tensor | None:
    """Rows that are to come out of a layer; inside it all are computed, so that graphs are few."""
    attends = [arg for arg in args if isinstance(arg, LayerAttend)]
    return next((attend.kept for attend in attends), None)


def _reason(error: Exception) -> str:
    """The first line of what torch says, and where in the plugin's code that is."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    places = re.findall(r'File "(.+?)", line (\d+)', str(error))
    return f"{reason} ({places[-1][0]}:{places[-1][1]})" if places else reason
