"""A match to a loaded module: strict accounting first, then every tensor streamed to its place."""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ferrule.checkpoint.checkpoint import TensorInfo
from ferrule.errors import LoadError
from ferrule.layers.weights import TakesWeights
from ferrule.matching import Match
from ferrule.quantization.format import Format
from ferrule.quantization.formats import FORMATS

_SHOWN = 8
_AHEAD = 4
"""Tensors that are brought into memory before they are wanted."""
_PAGE = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """Where one tensor goes.

    Attributes:
        module: Path of the module that takes it.
        shape: That it must have.
        owner: Allocates and writes it.
    """

    module: str
    shape: tuple[int, ...]
    owner: TakesWeights


@dataclass(frozen=True, kw_only=True, slots=True)
class Accounting:
    """The file's tensors against the model's.

    Attributes:
        homes: By canonical name, for all that the model takes.
        missing: Names that the model takes and the file lacks.
        surplus: Names that the file has and the model does not take.
        misshaped: Names whose shapes differ: the file's and the model's.
        unknown_formats: Names in formats that cannot be loaded.
    """

    homes: Mapping[str, Home]
    missing: tuple[str, ...]
    surplus: tuple[str, ...]
    misshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    unknown_formats: Mapping[str, str]

    @property
    def is_exact(self) -> bool:
        """Whether every tensor has its place."""
        return not (self.missing or self.surplus or self.misshaped or self.unknown_formats)

    def error(self, match: Match) -> LoadError:
        """All that does not fit, at once."""
        lines = [
            f"The tensors of {match.checkpoint.location} are not those that architecture "
            f"{match.architecture.name!r} takes:"
        ]
        lines += _listed("missing", [self._with_near(n, self.surplus) for n in self.missing])
        lines += _listed("not taken", [self._with_near(n, self.missing) for n in self.surplus])
        lines += _listed(
            "of another shape",
            [
                f"{name}: {list(found)} in the file, {list(expected)} expected"
                for name, (found, expected) in self.misshaped.items()
            ],
        )
        lines += _listed(
            "in a format that cannot be loaded",
            [f"{name}: {kind}" for name, kind in self.unknown_formats.items()],
        )
        return LoadError(
            "\n".join(lines),
            hint=f"`ferrule inspect {match.checkpoint.location}` shows every tensor. Other names "
            "for the same weights are a weight adapter plugin of ten lines; other weights are "
            f"an architecture plugin. Formats that load: {', '.join(FORMATS)}.",
        )

    @staticmethod
    def _with_near(name: str, others: tuple[str, ...]) -> str:
        near = difflib.get_close_matches(name, others[:2000], n=1, cutoff=0.8)
        return f"{name} (near: {near[0]})" if near else name


def _listed(title: str, names: list[str]) -> list[str]:
    if not names:
        return []
    shown = [f"    {name}" for name in names[:_SHOWN]]
    if len(names) > _SHOWN:
        shown.append(f"    ... and {len(names) - _SHOWN} more")
    return [f"  {title} ({len(names)}):", *shown]


def build(match: Match) -> nn.Module:
    """The architecture's module on the meta device: shapes, no memory."""
    with torch.device("meta"):
        return match.architecture.build(match.config)


def account(model: nn.Module, tensors: Mapping[str, TensorInfo]) -> Accounting:
    """Compares headers with what a model takes; reads no weights."""
    homes = _homes(model)
    return Accounting(
        homes=homes,
        missing=tuple(name for name in homes if name not in tensors),
        surplus=tuple(name for name in tensors if name not in homes),
        misshaped={
            name: (tensors[name].shape, home.shape)
            for name, home in homes.items()
            if name in tensors and tensors[name].shape != home.shape
        },
        unknown_formats={
            name: tensors[name].format
            for name in homes
            if name in tensors and tensors[name].format not in FORMATS
        },
    )


def formats_by_owner(
    accounting: Accounting, tensors: Mapping[str, TensorInfo]
) -> list[tuple[TakesWeights, dict[str, Format]]]:
    """Each module that takes weights, with the format of each name that it takes."""
    owners: dict[int, tuple[TakesWeights, dict[str, Format]]] = {}
    for name, home in accounting.homes.items():
        formats = owners.setdefault(id(home.owner), (home.owner, {}))[1]
        formats[name] = FORMATS[tensors[name].format]
    return list(owners.values())


def load(
    model: nn.Module,
    match: Match,
    *,
    dtype: torch.dtype,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Streams the weights into a built model on the device, each tensor once.

    Args:
        model: As ``build`` made it.
        match: The pair and the canonical checkpoint.
        dtype: Of activations and of weights that are not kept packed.
        device: Where the model will run.
        progress: Called with bytes read and bytes in all.

    Raises:
        LoadError: Tensors are missing, surplus, misshaped or in an unknown format.
    """
    tensors = match.checkpoint.tensors
    accounting = account(model, tensors)
    if not accounting.is_exact:
        raise accounting.error(match)
    total = sum(tensors[name].nbytes for name in accounting.homes)
    done = 0
    owners = formats_by_owner(accounting, tensors)
    with closing(_read_ahead(match, [name for _, names in owners for name in names])) as data:
        # One owner at a time, so that packing one layer never meets a second layer's copy.
        for owner, names in owners:
            owner.allocate(names, dtype=dtype, device=device)
            for name, format in names.items():
                owner.write(name, next(data), format)
                done += tensors[name].nbytes
                progress(done, total)
            owner.finish()
    _settle_buffers(model, device)
    model.eval()


def _read_ahead(match: Match, names: Iterable[str]) -> Generator[Tensor]:
    """Each tensor's rows; a thread reads the next ones while these are copied.

    A copy from a mapped file that meets its pages for the first time takes twice as long.
    """
    with ThreadPoolExecutor(1) as thread:
        coming: deque[Future[Tensor]] = deque()
        for name in names:
            coming.append(thread.submit(_rows, match, name))
            if len(coming) > _AHEAD:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def _rows(match: Match, name: str) -> Tensor:
    """A tensor's stored bytes in canonical row order: ``[rows, row_bytes]`` uint8, in memory."""
    data = match.read(name)
    # A byte of each page.
    data.reshape(-1)[::_PAGE].max(initial=0)
    return torch.from_numpy(data)


def _homes(model: nn.Module) -> dict[str, Home]:
    homes: dict[str, Home] = {}
    for path, module in model.named_modules():
        owner: object = module
        if isinstance(owner, TakesWeights):
            for name, shape in owner.weight_shapes(path).items():
                homes[name] = Home(module=path, shape=shape, owner=owner)
        for local, parameter in module.named_parameters(recurse=False):
            name = _join(path, local)
            plain = _PlainParameter(module, local)
            homes[name] = Home(module=path, shape=tuple(parameter.shape), owner=plain)
    return homes


def _join(path: str, local: str) -> str:
    return f"{path}.{local}" if path else local


class _PlainParameter:
    """A plain ``nn.Parameter`` of any module, as an owner of one tensor."""

    def __init__(self, module: nn.Module, local: str) -> None:
        self.module = module
        self.local = local

    def weight_shapes(self, path: str) -> dict[str, tuple[int, ...]]:
        """The parameter's own."""
        return {f"{path}.{self.local}": tuple(self._parameter().shape)}

    def _parameter(self) -> nn.Parameter:
        return self.module.get_parameter(self.local)

    def allocate(
        self, formats: Mapping[str, Format], *, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Replaces the meta parameter by room on the device."""
        room = torch.empty(self._parameter().shape, dtype=dtype, device=device)
        setattr(self.module, self.local, nn.Parameter(room, requires_grad=False))

    def write(self, name: str, data: Tensor, format: Format) -> None:
        """Fills it."""
        parameter = self._parameter().data
        parameter.copy_(format.dequantize(data).reshape(parameter.shape))

    def finish(self) -> None:
        """Nothing to repack."""


def _settle_buffers(model: nn.Module, device: torch.device) -> None:
    """Moves computed buffers (rotary frequencies) to the device."""
    for path, module in model.named_modules():
        for local, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                name = _join(path, local)
                raise LoadError(
                    f"The buffer {name} was made on the meta device, so it has no values.",
                    hint='Make computed buffers with device="cpu"; the loader moves them.',
                )
            setattr(module, local, buffer.to(device))
