"""A matched checkpoint to a GGUF file: decides every tensor's format, then streams them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from numpy.typing import NDArray

from ferrule.errors import LoadError, OptionError
from ferrule.loading import account, build
from ferrule.matching import Match
from ferrule.quantization.formats import FORMATS
from ferrule.quantize.encode import encode
from ferrule.quantize.metadata import ROPE_FREQS, frequency_factors, model_metadata
from ferrule.quantize.recipe import Recipe, format_of
from ferrule.quantize.target import Place, gguf_architecture, places, stored_order
from ferrule.quantize.vocabulary import vocabulary_metadata

Report = Callable[[int, int, str], None]
"""Called with weights done, weights in all, and the tensor that is next."""

_PLAIN = frozenset({"F64", "F32", "F16", "BF16"})
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION
# All other formats keep half floats.
_WIDE = frozenset({"F32", "BF16"})
_LARGEST_HALF = 65504.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What stands in a file now.

    Attributes:
        num_bytes: Of all tensors.
        formats: How many tensors are in which format.
    """

    num_bytes: int
    formats: dict[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tensor:
    name: str
    place: Place
    shape: tuple[int, ...]
    format: str

    @property
    def num_weights(self) -> int:
        return int(np.prod(self.shape))

    @property
    def num_bytes(self) -> int:
        size, num_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[self.format]]
        return self.num_weights // size * num_bytes


def write_gguf(match: Match, recipe: Recipe, out: Path, report: Report) -> Written:
    """Writes a model as one GGUF file.

    Args:
        match: The model.
        recipe: Which formats.
        out: The file; it appears when it is complete.
        report: Told how far it is.

    Raises:
        FerruleError: The model, its tokenizer or a weight cannot be written as GGUF, or there is
            such a file already.
    """
    if out.exists():
        raise OptionError(f"{out} exists already.", hint="Delete it, or name another file.")
    architecture = gguf_architecture(match)
    accounting = account(build(match), match.checkpoint.tensors)
    if not accounting.is_exact:
        raise accounting.error(match)
    tensors = _tensors(match, architecture, recipe)
    metadata = _metadata(match, architecture, recipe)
    factors = frequency_factors(match.config.rope)
    partial = out.with_name(out.name + ".partial")
    try:
        _write(partial, architecture, metadata, match, tensors, factors, report)
        partial.rename(out)
    except OSError as error:
        raise OptionError(f"{out} cannot be written: {error.strerror}.") from error
    finally:
        partial.unlink(missing_ok=True)
    formats = sorted(tensor.format for tensor in tensors)
    return Written(
        num_bytes=sum(tensor.num_bytes for tensor in tensors),
        formats={name: formats.count(name) for name in dict.fromkeys(formats)},
    )


def _tensors(match: Match, architecture: str, recipe: Recipe) -> list[_Tensor]:
    tensors: list[_Tensor] = []
    for name, place in places(match, architecture).items():
        info = match.checkpoint.tensors[name]
        if info.format not in _PLAIN:
            raise LoadError(
                f"The tensor {name} is stored as {info.format}; only weights of 16 bits and more "
                "are quantised, as a second rounding loses more than the file's size says.",
                hint="Take the model's original weights.",
            )
        format_name = format_of(
            place.name,
            info.shape,
            recipe,
            num_layers=match.config.num_layers,
            is_tied=match.config.tie_word_embeddings,
        )
        tensors.append(_Tensor(name=name, place=place, shape=info.shape, format=format_name))
    return tensors


def _metadata(match: Match, architecture: str, recipe: Recipe) -> dict[str, Any]:
    location = match.checkpoint.location
    return {
        "general.type": "model",
        "general.name": Path(location).resolve().stem if Path(location).exists() else location,
        "general.file_type": recipe.file_type,
        "general.quantization_version": _QUANTIZATION_VERSION,
        **model_metadata(architecture, match.config),
        **vocabulary_metadata(match.checkpoint.stored, match.config.vocab_size),
    }


def _write(
    file: Path,
    architecture: str,
    metadata: dict[str, Any],
    match: Match,
    tensors: list[_Tensor],
    factors: NDArray[np.float32] | None,
    report: Report,
) -> None:
    writer = GGUFWriter(file, architecture)
    for key, value in metadata.items():
        _add(writer, key, value)
    if factors is not None:
        writer.add_tensor_info(ROPE_FREQS, factors.shape, factors.dtype, factors.nbytes)
    for tensor in tensors:
        kind = GGMLQuantizationType[tensor.format]
        # The writer asks for a type of numbers even where it is told the format.
        plain = np.dtype(np.float32)
        writer.add_tensor_info(tensor.place.name, tensor.shape, plain, tensor.num_bytes, kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors)
        for data in _encoded(match, tensors, report):
            writer.write_tensor_data(data)
    finally:
        writer.close()


def _encoded(match: Match, tensors: list[_Tensor], report: Report) -> Iterator[NDArray[np.uint8]]:
    total = sum(tensor.num_weights for tensor in tensors)
    done = 0
    for tensor in tensors:
        report(done, total, tensor.place.name)
        yield encode(_weights(match, tensor), tensor.format)
        done += tensor.num_weights
    report(done, total, "")


def _weights(match: Match, tensor: _Tensor) -> torch.Tensor:
    """A tensor in the order in which it is stored, float32, a matrix or a single row."""
    info = match.checkpoint.tensors[tensor.name]
    rows = torch.from_numpy(match.read(tensor.name))
    weights = FORMATS[info.format].dequantize(rows).float().reshape(info.shape)
    if not bool(weights.isfinite().all()):
        raise LoadError(f"The tensor {tensor.name} holds numbers that are not finite.")
    if tensor.format not in _WIDE and float(weights.abs().max()) > _LARGEST_HALF:
        raise LoadError(
            f"The tensor {tensor.name} holds numbers beyond the range of {tensor.format}.",
            hint="Write --to bf16, which has the range of float32.",
        )
    if tensor.place.heads:
        weights = weights[stored_order(tensor.place.heads, info.shape[0])]
    return weights.reshape(-1, info.shape[-1]).contiguous()


def _add(writer: GGUFWriter, key: str, value: object) -> None:
    if key == "general.architecture":
        return
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, cast("list[Any]", value))
